//! `stop`: one component, until it is started again.

use anyhow::Context as _;
use proto::control::{ControlClient, StopRequest};

use crate::cli::{Format, Side};
use crate::control::{CHANGE_DEADLINE, explain};
use crate::output::{harmless, print, print_json};
use crate::status::ComponentStatus;

pub(crate) async fn stop(
    control: &ControlClient,
    side: Side,
    component: String,
    format: Format,
) -> anyhow::Result<()> {
    let request = StopRequest { component };
    let reply = control.stop_with_deadline(request, CHANGE_DEADLINE).await.map_err(explain)?;
    let component = reply.component.context("the supervisor's answer names no component")?;
    match format {
        Format::Json => print_json(&ComponentStatus::from(&component)),
        Format::Table => {
            let (name, state) = (harmless(&component.name), harmless(&component.state));
            let program = side.program();
            Ok(print(&format!("{name} is {state} until `{program} start {name}`\n"))?)
        }
    }
}
