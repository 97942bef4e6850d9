//! What happens to an object between the client's bytes and the store: its shape is checked and unknown fields are
//! dropped ([`shape`]), values the client left out are filled in ([`defaults`], [`pod`]), the result is validated
//! ([`validate`], [`pod_rules`]). All pure functions of the object.

pub(crate) mod defaults;
pub(crate) mod pod;
pub(crate) mod pod_rules;
pub(crate) mod shape;
pub(crate) mod validate;
