//! The calls of one connection that have no answer yet, on the server's side.

use std::collections::HashMap;

use tokio::task::AbortHandle;

use crate::frame::NO_CALL;
use crate::inbox::{READ_BUFFER, SMALL};
use crate::sink::Credit;
use crate::stats::Counters;
use crate::{IN_WORK, Interface, Method};

#[derive(Debug)]
pub(crate) struct Table {
    calls: HashMap<u64, Running>,
    /// How many of each method, by its index.
    per_method: Vec<usize>,
    /// Bytes of their requests, as [`cost`] counts them.
    in_work: usize,
}

#[derive(Debug)]
struct Running {
    method: usize,
    cost: usize,
    /// `None` while its request is arriving, or being looked at.
    task: Option<AbortHandle>,
    credit: Option<Credit>,
}

/// What a request takes out of [`IN_WORK`] while it is worked on. A small one is bounded by the calls there may be; a
/// larger one may hold a read buffer.
pub(crate) fn cost(request: usize) -> usize {
    if request <= SMALL { 0 } else { request.max(READ_BUFFER) }
}

impl Table {
    pub(crate) fn new(interface: &Interface) -> Self {
        Self { calls: HashMap::new(), per_method: vec![0; interface.methods.len()], in_work: 0 }
    }

    /// Whether the peer may have this call in flight; else the rule it broke. Only its own session adds calls, so the
    /// answer holds until then.
    pub(crate) fn admit(&self, call: u64, method: &Method, request: usize) -> Result<(), String> {
        if self.per_method[method.index()] >= method.at_once {
            return Err(format!("more than {} calls of {} at once", method.at_once, method.name));
        }
        if self.in_work + cost(request) > IN_WORK {
            return Err(format!("more than {IN_WORK} bytes in requests at once"));
        }
        if call == NO_CALL || (!self.calls.is_empty() && self.calls.contains_key(&call)) {
            return Err(format!("call number {call} is in use"));
        }
        Ok(())
    }

    /// Takes the place of a call that was admitted.
    pub(crate) fn begin(&mut self, call: u64, method: &Method, request: usize) {
        let cost = cost(request);
        self.per_method[method.index()] += 1;
        self.in_work += cost;
        self.calls.insert(call, Running { method: method.index(), cost, task: None, credit: None });
    }

    /// Whether the call has a place.
    pub(crate) fn has(&self, call: u64) -> bool {
        !self.calls.is_empty() && self.calls.contains_key(&call)
    }

    /// Its work goes on in a task of its own.
    pub(crate) fn working(&mut self, call: u64, task: AbortHandle, credit: Option<Credit>) {
        match self.calls.get_mut(&call) {
            Some(running) => (running.task, running.credit) = (Some(task), credit),
            None => task.abort(),
        }
    }

    /// Frees the call's place, if it has one.
    pub(crate) fn finish(&mut self, call: u64) {
        self.take(call);
    }

    fn take(&mut self, call: u64) -> Option<Running> {
        if self.calls.is_empty() {
            return None;
        }
        let running = self.calls.remove(&call)?;
        self.per_method[running.method] -= 1;
        self.in_work -= running.cost;
        if let Some(credit) = &running.credit {
            credit.close();
        }
        Some(running)
    }

    /// Ends the call's work; its method's index, unless it has just been answered.
    pub(crate) fn cancel(&mut self, call: u64) -> Option<usize> {
        let running = self.take(call)?;
        if let Some(task) = running.task {
            task.abort();
        }
        Some(running.method)
    }

    /// The error is the rule that was broken.
    pub(crate) fn grant(&self, call: u64, bytes: u32) -> Result<(), &'static str> {
        match self.calls.get(&call) {
            // On its way while the stream ended.
            None => Ok(()),
            Some(Running { credit: Some(credit), .. }) if credit.grant(bytes) => Ok(()),
            Some(Running { credit: Some(_), .. }) => Err("credit beyond the stream window"),
            Some(Running { credit: None, .. }) => Err("credit for a call that is no stream"),
        }
    }

    /// Ends the work of all calls, each of which counts as one that was cancelled.
    pub(crate) fn cancel_all(&mut self, counters: &Counters) {
        for running in std::mem::take(&mut self.calls).into_values() {
            if let Some(credit) = &running.credit {
                credit.close();
            }
            if let Some(task) = running.task {
                task.abort();
            }
            counters.failed(running.method);
        }
    }
}
