//! One binary for the cloud roles, chosen by the name it is started under: eight roles as one file share their text pages,
//! as eight files they do not.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: start as authority, apiserver, controllers, cloudhub or metrics, or give that name as first argument";

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
        "authority" => Some(authority::main),
        "apiserver" => Some(apiserver::main),
        "controllers" => Some(controllers::main),
        "cloudhub" => Some(cloudhub::main),
        "metrics" => Some(metrics::main),
        _ => None,
    }
}
