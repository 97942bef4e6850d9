//! What a `service` becomes: its method table, clients, server trait and server.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use prost_build::{Method, Service, ServiceGenerator};

/// Calls of one method in flight on one connection, unless its comment says otherwise.
const AT_ONCE: usize = 64;

/// prost's generator cannot fail, so what is wrong with a service is kept here.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Vec<anyhow::Error>>>);

impl Faults {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

pub(crate) struct Generator(Faults);

impl Generator {
    pub(crate) fn new() -> (Self, Faults) {
        let faults = Faults::default();
        (Self(faults.clone()), faults)
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, buf: &mut String) {
        match generate(&service) {
            Ok(code) => buf.push_str(&code),
            Err(fault) => self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault),
        }
    }
}

fn generate(service: &Service) -> anyhow::Result<String> {
    let methods = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| {
            Rpc::new(index, method).with_context(|| format!("method {}", method.proto_name))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let names = Names::of(service);
    let mut code = String::new();
    table(&names, &methods, &mut code);
    client(&names, &methods, &mut code);
    blocking_client(&names, &methods, &mut code);
    server_trait(service, &names, &methods, &mut code);
    server(&names, &methods, &mut code);
    Ok(code)
}

/// The names a service gives rise to.
struct Names {
    /// `MetaManager`
    service: String,
    /// `META_MANAGER`
    table: String,
    /// `MetaManagerError`, which the file must define.
    error: String,
    /// `apiary.metamanager.v1.MetaManager`
    full: String,
}

impl Names {
    fn of(service: &Service) -> Self {
        let mut table = String::new();
        for letter in service.name.chars() {
            if letter.is_ascii_uppercase() && !table.is_empty() {
                table.push('_');
            }
            table.push(letter.to_ascii_uppercase());
        }
        Self {
            service: service.name.clone(),
            table,
            error: format!("{}Error", service.name),
            full: format!("{}.{}", service.package, service.proto_name),
        }
    }
}

/// A method, with what its comment says.
struct Rpc<'a> {
    method: &'a Method,
    index: usize,
    number: usize,
    streams: bool,
    /// The comment as Rust doc lines.
    doc: String,
    max_request: String,
    at_once: usize,
}

impl<'a> Rpc<'a> {
    fn new(index: usize, method: &'a Method) -> anyhow::Result<Self> {
        ensure!(!method.client_streaming, "the bus has no client streams");
        let comment = method.comments.leading.join(" ");
        ensure!(!comment.trim().is_empty(), "its comment must say who may call it");
        Ok(Self {
            method,
            index,
            number: index + 1,
            streams: method.server_streaming,
            doc: doc_lines(&method.comments.leading),
            max_request: largest_message(&comment)?,
            at_once: at_once(&comment)?,
        })
    }

    fn name(&self) -> &str {
        &self.method.name
    }
}

fn doc_lines(comment: &[String]) -> String {
    comment.iter().fold(String::new(), |mut doc, line| {
        // Comments are prose: nothing in them is a link or a tag.
        let line =
            line.trim_end().replace('[', "\\[").replace(']', "\\]").replace('<', "\\<").replace('>', "\\>");
        let _ = writeln!(doc, "///{line}");
        doc
    })
}

/// `Largest message: 16 KiB` as an expression in bytes.
fn largest_message(comment: &str) -> anyhow::Result<String> {
    const TERM: &str = "Largest message: ";
    let Some((_, rest)) = comment.split_once(TERM) else { return Ok("ipc::MAX_PAYLOAD".to_owned()) };
    let mut words = rest.split_whitespace();
    let number: usize =
        words.next().unwrap_or_default().parse().context("a number after `Largest message:`")?;
    let unit = words.next().unwrap_or_default();
    let bytes = match unit.trim_end_matches(['.', ',', ';']) {
        "KiB" => number * 1024,
        "MiB" => number * 1024 * 1024,
        other => bail!("`Largest message:` is in KiB or MiB, not {other:?}"),
    };
    // Above it the frame codec would refuse first.
    ensure!((1..=4 * 1024 * 1024).contains(&bytes), "a message is at most 4 MiB");
    Ok(if bytes == 4 * 1024 * 1024 { "ipc::MAX_PAYLOAD".to_owned() } else { format!("{bytes}") })
}

/// `At most 256 at once`, else [`AT_ONCE`].
fn at_once(comment: &str) -> anyhow::Result<usize> {
    let Some((before, _)) = comment.split_once(" at once") else { return Ok(AT_ONCE) };
    let Some((_, number)) = before.rsplit_once("At most ") else { return Ok(AT_ONCE) };
    let digits: String = number.chars().filter(|c| !matches!(c, ' ' | ',')).collect();
    let number = digits.parse().with_context(|| format!("`At most {number} at once` names no number"))?;
    ensure!(number > 0, "`At most 0 at once`");
    Ok(number)
}

fn table(names: &Names, methods: &[Rpc<'_>], code: &mut String) {
    let Names { service, table, full, .. } = names;
    let _ = writeln!(code, "/// The methods of `{service}`, their numbers and bounds.");
    let _ =
        writeln!(code, "pub static {table}: ipc::Interface = ipc::Interface {{ name: {full:?}, methods: &[");
    for rpc in methods {
        let shape = if rpc.streams { "Stream" } else { "Unary" };
        let _ = writeln!(
            code,
            "ipc::Method {{ number: {}, name: {:?}, shape: ipc::Shape::{shape}, max_request: {}, at_once: {} }},",
            rpc.number, rpc.method.proto_name, rpc.max_request, rpc.at_once
        );
    }
    code.push_str("] };\n");
}

fn client(names: &Names, methods: &[Rpc<'_>], code: &mut String) {
    let Names { service, table, error, .. } = names;
    let _ = write!(
        code,
        r"
/// Repeats a unary call to the next `{service}` server when one goes away, until the call's deadline; a stream ends with
/// [`ipc::CallError::Disconnected`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct {service}Client {{
    caller: ipc::Caller,
}}

impl {service}Client {{
    /// A client on this channel, which must lead to a `{service}` server.
    pub fn new(channel: ipc::Channel) -> Self {{
        Self {{ caller: channel.caller(&{table}) }}
    }}

    /// The channel underneath.
    pub fn channel(&self) -> &ipc::Channel {{
        self.caller.channel()
    }}
"
    );
    for rpc in methods {
        let Rpc { method, index, doc, .. } = rpc;
        let (name, input, output) = (rpc.name(), &method.input_type, &method.output_type);
        let _ = if rpc.streams {
            write!(
                code,
                r"
{doc}    pub async fn {name}(&self, request: {input}) -> Result<ipc::Streaming<{output}, {error}>, ipc::CallError<{error}>> {{
        self.caller.stream(&{table}.methods[{index}], &request).await
    }}
"
            )
        } else {
            write!(
                code,
                r"
{doc}    pub async fn {name}(&self, request: {input}) -> Result<{output}, ipc::CallError<{error}>> {{
        self.{name}_with_deadline(request, ipc::DEFAULT_DEADLINE).await
    }}

    /// `{name}`, waiting at most `deadline`.
    pub async fn {name}_with_deadline(&self, request: {input}, deadline: std::time::Duration) -> Result<{output}, ipc::CallError<{error}>> {{
        self.caller.unary(&{table}.methods[{index}], &request, deadline).await
    }}
"
            )
        };
    }
    code.push_str("}\n");
}

fn blocking_client(names: &Names, methods: &[Rpc<'_>], code: &mut String) {
    let Names { service, table, error, .. } = names;
    let _ = write!(
        code,
        r"
/// Repeats a call to the next `{service}` server when one goes away, until its deadline. Blocks its thread; one call at
/// a time; unary methods only. Cheap to clone.
#[derive(Debug, Clone)]
pub struct {service}BlockingClient {{
    channel: ipc::blocking::Channel,
}}

impl {service}BlockingClient {{
    /// A client on this channel, which must lead to a `{service}` server.
    pub fn new(channel: ipc::blocking::Channel) -> Self {{
        Self {{ channel }}
    }}
"
    );
    for rpc in methods.iter().filter(|rpc| !rpc.streams) {
        let Rpc { method, index, doc, .. } = rpc;
        let (name, input, output) = (rpc.name(), &method.input_type, &method.output_type);
        let _ = write!(
            code,
            r"
{doc}    pub fn {name}(&self, request: {input}) -> Result<{output}, ipc::CallError<{error}>> {{
        self.{name}_with_deadline(request, ipc::blocking::DEFAULT_DEADLINE)
    }}

    /// `{name}`, waiting at most `deadline`.
    pub fn {name}_with_deadline(&self, request: {input}, deadline: std::time::Duration) -> Result<{output}, ipc::CallError<{error}>> {{
        self.channel.unary(&{table}, &{table}.methods[{index}], &request, deadline)
    }}
"
        );
    }
    code.push_str("}\n");
}

fn server_trait(service: &Service, names: &Names, methods: &[Rpc<'_>], code: &mut String) {
    let Names { service: name, error, .. } = names;
    let doc = doc_lines(&service.comments.leading);
    let _ = write!(
        code,
        r"
/// What a server of `{name}` does. A call may be dropped at any await point: at its deadline, when its caller cancels, when the peer is gone.
{doc}pub trait {name}: Send + Sync + 'static {{
"
    );
    for rpc in methods {
        let Rpc { method, doc, .. } = rpc;
        let (method_name, input, output) = (rpc.name(), &method.input_type, &method.output_type);
        let (sink, reply) = if rpc.streams {
            (format!(", out: ipc::Sink<{output}>"), "()")
        } else {
            (String::new(), output.as_str())
        };
        let _ = write!(
            code,
            r"
{doc}    fn {method_name}(&self, peer: &ipc::Peer, request: {input}{sink}) -> impl Future<Output = Result<{reply}, ipc::Fail<{error}>>> + Send;
"
        );
    }
    code.push_str("}\n");
}

fn server(names: &Names, methods: &[Rpc<'_>], code: &mut String) {
    let Names { service, table, .. } = names;
    let _ = write!(
        code,
        r"
/// Serves an implementation of [`{service}`] on the bus.
#[derive(Debug)]
pub struct {service}Server<T> {{
    service: std::sync::Arc<T>,
}}

impl<T: {service}> {service}Server<T> {{
    /// Puts `service` on the bus.
    pub fn new(service: T) -> Self {{
        Self {{ service: std::sync::Arc::new(service) }}
    }}

    /// Puts a service on the bus that its owner keeps using.
    pub fn shared(service: std::sync::Arc<T>) -> Self {{
        Self {{ service }}
    }}
}}

impl<T: {service}> ipc::Service for {service}Server<T> {{
    fn interface(&self) -> &'static ipc::Interface {{
        &{table}
    }}

    fn handle(&self, call: ipc::Call, request: ipc::Request<'_>) -> Result<ipc::Handling, ipc::Malformed> {{
        let service = std::sync::Arc::clone(&self.service);
        match call.number() {{
"
    );
    for rpc in methods {
        let (number, name) = (rpc.number, rpc.name());
        let (out, arguments, answer) = if rpc.streams {
            ("let out = call.sink();", ", out", "call.end(done)")
        } else {
            ("", "", "call.reply(done).await")
        };
        let _ = write!(
            code,
            r"
            {number} => {{
                let request = request.decode()?;
                {out}
                Ok(Box::pin(async move {{
                    let done = service.{name}(call.peer(), request{arguments}).await;
                    {answer}
                }}))
            }}
"
        );
    }
    code.push_str("_ => Err(call.unknown()),\n}\n}\n}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_from_the_comment() {
        assert_eq!(largest_message("Caller: any. Largest message: 16 KiB. More.").unwrap(), "16384");
        assert_eq!(largest_message("Largest message: 4 MiB.").unwrap(), "ipc::MAX_PAYLOAD");
        assert_eq!(largest_message("Caller: any.").unwrap(), "ipc::MAX_PAYLOAD");
        assert_eq!(at_once("Caller: any. At most 16 384 at once.").unwrap(), 16384);
        assert_eq!(at_once("Offline at once without a cloud link.").unwrap(), AT_ONCE);
    }

    #[test]
    fn a_bound_that_cannot_be_read_is_an_error() {
        assert!(largest_message("Largest message: 16 kB").is_err());
        assert!(largest_message("Largest message: some KiB").is_err());
        assert!(largest_message("Largest message: 5 MiB").is_err());
        assert!(at_once("At most many at once.").is_err());
    }
}
