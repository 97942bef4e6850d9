//! `edgecore`, also linked as `cloudcore`.

fn main() -> std::process::ExitCode {
    supervisor::main()
}
