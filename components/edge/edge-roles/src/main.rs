//! One binary for the core roles of the edge, chosen by the name it is started under (`argv[0]`), so that their text
//! pages are shared: eight roles in one file cost a third of the memory that eight files do.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str =
    "usage: start as metamanager, edgehub, edged or metrics, or give that name as first argument";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let own_name = arguments.next().and_then(|path| Path::new(&path).file_name().map(OsStr::to_owned));
    let role = [own_name, arguments.next()].iter().flatten().find_map(|name| role(name));
    role.map_or_else(usage, |main| main())
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn role(name: &OsStr) -> Option<fn() -> ExitCode> {
    match name.to_str()? {
        "metamanager" => Some(metamanager::main),
        "edgehub" => Some(edgehub::main),
        "edged" => Some(edged::main),
        "metrics" => Some(metrics::main),
        _ => None,
    }
}
