//! `restart`: one component ended and started again.

use anyhow::Context as _;
use proto::control::{ControlClient, RestartRequest};

use crate::cli::Format;
use crate::control::{CHANGE_DEADLINE, explain};
use crate::output::{harmless, print, print_json};
use crate::status::ComponentStatus;

pub(crate) async fn restart(
    control: &ControlClient,
    component: String,
    format: Format,
) -> anyhow::Result<()> {
    let request = RestartRequest { component };
    let reply = control.restart_with_deadline(request, CHANGE_DEADLINE).await.map_err(explain)?;
    let component = reply.component.context("the supervisor's answer names no component")?;
    match format {
        Format::Json => print_json(&ComponentStatus::from(&component)),
        Format::Table => {
            let name = harmless(&component.name);
            Ok(print(&format!("{name} is {} again, pid {}\n", harmless(&component.state), component.pid))?)
        }
    }
}
