//! What a route says of itself: the types that its handler takes and gives describe themselves, and the interface's
//! document is put together from that.
//!
//! A handler cannot be put into the table of routes unless everything in its signature can be described, so that code
//! and document are one source.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use axum::extract::State;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use super::Api;
use super::code::Code;
use super::input::By;
use super::problem::ApiError;

/// Makes a schema, and the definitions it refers to.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One route's part of the document.
#[derive(Debug, Default)]
pub(super) struct Operation {
    /// Its name for programs.
    pub(super) id: &'static str,
    /// What it does, in a sentence.
    pub(super) summary: &'static str,
    /// What varies in the path, in order.
    pub(super) path: Vec<SchemaOf>,
    /// An object, each of whose properties is a parameter of the query.
    pub(super) query: Option<SchemaOf>,
    pub(super) headers: Vec<HeaderDoc>,
    pub(super) body: Option<BodyDoc>,
    /// By status.
    pub(super) answers: BTreeMap<u16, AnswerDoc>,
    /// What can go wrong.
    pub(super) codes: BTreeSet<Code>,
}

/// A header of a request.
#[derive(Debug)]
pub(super) struct HeaderDoc {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) schema: SchemaOf,
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct BodyDoc {
    pub(super) description: String,
    pub(super) media_types: &'static [&'static str],
    pub(super) required: bool,
    pub(super) schema: SchemaOf,
    pub(super) example: Option<Value>,
}

/// An answer that is no problem.
#[derive(Debug)]
pub(super) struct AnswerDoc {
    pub(super) description: &'static str,
    /// Media type and schema; none for an empty body.
    pub(super) body: Option<(&'static str, SchemaOf)>,
    /// Names and descriptions.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// The schema of a type, as a function.
pub(super) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An object without properties of its own, to be filled.
pub(super) fn object(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let fields: Map<String, Value> = pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Value::Object(fields)
}

/// Something a handler takes.
pub(super) trait Takes {
    /// Says so.
    fn takes(operation: &mut Operation);
}

/// Something a handler gives.
pub(super) trait Gives {
    /// Says so.
    fn gives(operation: &mut Operation);
}

/// A handler whose signature can be described.
pub(super) trait Documented<T> {
    /// Describes it.
    fn document(operation: &mut Operation);
}

impl Takes for State<Arc<Api>> {
    fn takes(_: &mut Operation) {}
}

impl Takes for By {
    fn takes(_: &mut Operation) {}
}

impl<T: Gives> Gives for Result<T, ApiError> {
    fn gives(operation: &mut Operation) {
        T::gives(operation);
    }
}

macro_rules! documented {
    ($($taken:ident),*) => {
        impl<F, Answer, $($taken),*> Documented<($($taken,)*)> for F
        where
            F: Fn($($taken),*) -> Answer,
            Answer: Future<Output: Gives>,
            $($taken: Takes),*
        {
            fn document(operation: &mut Operation) {
                $($taken::takes(operation);)*
                Answer::Output::gives(operation);
            }
        }
    };
}

documented!();
documented!(A);
documented!(A, B);
documented!(A, B, C);
documented!(A, B, C, D);
documented!(A, B, C, D, E);
documented!(A, B, C, D, E, G);
