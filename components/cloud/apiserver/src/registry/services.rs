//! Cluster addresses of services.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::object::{self, child, text};
use crate::resources;
use crate::store::Work;

/// 10.96.0.0/16, as kubeadm has it. The first address is kept for a service `kubernetes`.
const NETWORK: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const ADDRESSES: u32 = 1 << 16;

/// Gives the service an address if it wants one and has none; refuses one that another service has.
pub(super) fn allocate_address(work: &Work<'_>, service: &mut Value) -> Result<(), ApiError> {
    let wanted = text(service, "/spec/clusterIP").to_owned();
    if wanted == "None" || text(service, "/spec/type") == "ExternalName" {
        return Ok(());
    }
    let Some(services) = resources::find("", "v1", "services") else { return Ok(()) };
    let me = (object::namespace(service), object::name(service));
    let taken: HashSet<String> = work
        .all(services, None)?
        .iter()
        .filter(|other| (object::namespace(other), object::name(other)) != me)
        .map(|other| text(other, "/spec/clusterIP").to_owned())
        .collect();
    let invalid = |value: &Value, why: &str| {
        ApiError::invalid(services, me.1, &[Cause::invalid("spec.clusterIPs", value, why)])
    };
    let address = if wanted.is_empty() {
        free_address(&taken)
            .ok_or_else(|| invalid(&Value::Null, "no free address is left in 10.96.0.0/16"))?
    } else if taken.contains(&wanted) {
        return Err(invalid(&json!([wanted]), "failed to allocate IP: provided IP is already allocated"));
    } else {
        wanted
    };
    let spec = child(service, "spec");
    spec.insert("clusterIPs".into(), json!([address]));
    spec.insert("clusterIP".into(), address.into());
    Ok(())
}

/// The first free one from a place that differs from call to call, so that an address is not reused at once.
fn free_address(taken: &HashSet<String>) -> Option<String> {
    let [a, b, ..] = uuid::Uuid::new_v4().into_bytes();
    let start = u32::from(u16::from_be_bytes([a, b]));
    (0..ADDRESSES)
        .map(|step| (start + step) % ADDRESSES)
        .filter(|host| (2..ADDRESSES - 1).contains(host))
        .map(|host| Ipv4Addr::from_bits(NETWORK + host).to_string())
        .find(|address| !taken.contains(address))
}

/// An update that does not name the address keeps it.
pub(super) fn keep_address(stored: &Value, service: &mut Value) {
    if text(service, "/spec/clusterIP").is_empty() && text(service, "/spec/type") != "ExternalName" {
        let spec = child(service, "spec");
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = stored["spec"].get(field) {
                spec.insert(field.to_owned(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_address_skips_taken_ones() {
        let mut taken = HashSet::new();
        for _ in 0..100 {
            let address = free_address(&taken).unwrap();
            assert!(address.starts_with("10.96."));
            assert!(taken.insert(address));
        }
    }
}
