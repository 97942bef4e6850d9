//! One binary for the core roles of the edge, chosen by the name it is started under (`argv[0]`), so that their text
//! pages are shared: eight roles in one file cost a third of the memory that eight files do.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("metamanager") => metamanager::main(),
        Some("edgehub") => edgehub::main(),
        Some("edged") => edged::main(),
        _ => {
            eprintln!(
                "start this as metamanager, edgehub or edged (hard links to one file; the supervisor does)"
            );
            ExitCode::from(2)
        }
    }
}
