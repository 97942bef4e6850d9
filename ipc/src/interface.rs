//! What generated code says about an interface: its methods, their numbers and bounds.

use std::time::Duration;

/// One `service` of a `.proto` file.
#[derive(Debug, PartialEq, Eq)]
pub struct Interface {
    /// Full protobuf name, `apiary.metamanager.v1.MetaManager`; both sides of a connection must mean the same.
    pub name: &'static str,
    /// In file order; the method at index `i` has number `i + 1`.
    pub methods: &'static [Method],
}

/// One `rpc`.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// What travels in the request, from 1. Methods are added at the end of their file, so numbers are never reused.
    pub number: u32,
    /// The name in the `.proto` file, which is also the name in manifests.
    pub name: &'static str,
    /// One reply or many items.
    pub shape: Shape,
    /// Largest encoded request in bytes ("Largest message" in the method's comment, else [`crate::MAX_PAYLOAD`]).
    pub max_request: usize,
    /// Calls of this method one connection may have in flight ("At most N at once" in the comment, else 64). A further
    /// unary call waits in the client, a further stream is refused.
    pub at_once: usize,
}

/// How a method answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One reply.
    Unary,
    /// Items until an end or an error.
    Stream,
}

impl Interface {
    /// The number of its newest method: what a hello says of the interface, since methods are only ever added.
    pub fn revision(&self) -> u32 {
        u32::try_from(self.methods.len()).unwrap_or(u32::MAX)
    }

    /// The method with this number.
    pub fn by_number(&self, number: u32) -> Option<&'static Method> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.methods.get(index)
    }

    /// The method with this name, as the manifest writes it.
    pub fn by_name(&self, name: &str) -> Option<&'static Method> {
        self.methods.iter().find(|method| method.name == name)
    }
}

impl Method {
    /// Position in [`Interface::methods`].
    pub(crate) fn index(&self) -> usize {
        self.number as usize - 1
    }
}

/// Who a process says it is in its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Component name. A server that knows its peer by the listener refuses another name.
    pub component: String,
    /// Tells one start of a component from the next; rises.
    pub generation: u64,
    /// Of its software; what is refused for its version names it.
    pub version: &'static str,
}

impl Identity {
    /// An identity for the hello, of the version this was built as: all components are built together.
    pub fn new(component: impl Into<String>, generation: u64) -> Self {
        Self { component: component.into(), generation, version: env!("CARGO_PKG_VERSION") }
    }
}

/// A deadline in the request's unit, rounded up so that a short wait does not become "none", which is 0.
pub(crate) fn deadline_ms(deadline: Duration) -> u64 {
    u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
