//! `start`: one component that is stopped, failed or waiting.

use anyhow::Context as _;
use proto::control::{ControlClient, StartRequest};

use crate::cli::Format;
use crate::control::{CHANGE_DEADLINE, explain};
use crate::output::{harmless, print, print_json};
use crate::status::ComponentStatus;

pub(crate) async fn start(control: &ControlClient, component: String, format: Format) -> anyhow::Result<()> {
    let request = StartRequest { component };
    let reply = control.start_with_deadline(request, CHANGE_DEADLINE).await.map_err(explain)?;
    let component = reply.component.context("the supervisor's answer names no component")?;
    match format {
        Format::Json => print_json(&ComponentStatus::from(&component)),
        Format::Table => {
            let name = harmless(&component.name);
            Ok(print(&format!("{name} is {}, pid {}\n", harmless(&component.state), component.pid))?)
        }
    }
}
