//! What `kubectl get` prints: the server computes the cells (`meta/v1 Table`), as
//! `pkg/printers/internalversion/printers.go` does.

mod age;
mod cells;
mod pods;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object;

pub(crate) use cells::*;

/// How much of each object a table row carries (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All.
    Object,
}

/// A column.
#[derive(Debug)]
pub(crate) struct Column {
    name: &'static str,
    /// `string`, `integer`.
    kind: &'static str,
    /// `-o wide` only.
    wide: bool,
}

/// The columns of a kind and how its cells are computed.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

const fn narrow(name: &'static str) -> Column {
    Column { name, kind: "string", wide: false }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", wide: true }
}

impl Columns {
    fn definitions(&self) -> Value {
        self.columns
            .iter()
            .map(|column| {
                // `format: name` makes kubectl print the kind before it in mixed lists.
                let format = if column.name == "Name" { "name" } else { "" };
                json!({
                    "name": column.name, "type": column.kind, "format": format,
                    "description": column.name, "priority": i32::from(column.wide),
                })
            })
            .collect()
    }
}

/// A table of `objects`. `meta` is the list's metadata. `header`: with column definitions; later events of a watch go
/// without.
pub(crate) fn table(
    columns: &Columns,
    objects: &[Value],
    meta: &Value,
    include: Include,
    header: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells = (columns.cells)(object, now);
            let object = match include {
                Include::None => Value::Null,
                Include::Metadata => partial(object),
                Include::Object => object.clone(),
            };
            json!({"cells": cells, "object": object})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
        "columnDefinitions": if header { columns.definitions() } else { json!([]) },
        "rows": rows,
    })
}

/// The object's `PartialObjectMetadata`.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// `Name` and `Age`, for kinds without columns of their own.
pub(crate) static GENERIC: Columns = Columns {
    columns: &[narrow("Name"), narrow("Age")],
    cells: |object, now| vec![object::name(object).into(), age::of(object, now)],
};
