//! What tshark prints of a packet, as a tree: its JSON names one field several times, which ordinary maps would lose.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A field with its value, or with the fields below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Leaf(String),
    Tree(Vec<(String, Node)>),
}

impl Node {
    /// The fields below this one.
    pub(super) fn fields(&self) -> &[(String, Node)] {
        match self {
            Self::Leaf(_) => &[],
            Self::Tree(fields) => fields,
        }
    }

    /// Every field of this name right below.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        let named = self.fields().iter().filter(move |(field, _)| field == name);
        named.map(|(_, node)| node)
    }

    /// The first field of this name right below.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.fields()
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, node)| node)
    }

    /// The text of the first field of this name right below.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Self::Leaf(text) => Some(text),
            Self::Tree(_) => None,
        }
    }

    /// The same as a number, decimal or `0x…`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        number(self.text(name)?)
    }

    /// The same as bytes, `0a:1b:…`.
    pub(super) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        bytes(self.text(name)?)
    }

    /// Every field of this name, however deep.
    pub(super) fn anywhere<'a>(&'a self, name: &str, found: &mut Vec<&'a Self>) {
        for (field, node) in self.fields() {
            if field == name {
                found.push(node);
            }
            node.anywhere(name, found);
        }
    }
}

pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(':')
        .map(|pair| u8::from_str_radix(pair, 16).ok())
        .collect()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what tshark prints of a packet")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Leaf(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Leaf(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(String::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Tree(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(node) = seq.next_element()? {
            fields.push((String::new(), node));
        }
        Ok(Node::Tree(fields))
    }
}

/// Takes the elements of an array one by one, so that only one is held at a time.
pub(super) struct Each<'a>(pub(super) &'a mut dyn FnMut(Node));

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of packets")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(node) = seq.next_element()? {
            (self.0)(node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_one_name_are_all_kept_in_order() {
        let text = r#"[{"a": {"b": "1", "b": "0x10", "c": {"d": "0a:ff"}, "n": null}}, {"e": ""}]"#;
        let mut packets = Vec::new();
        let mut json = serde_json::Deserializer::from_str(text);
        Each(&mut |node| packets.push(node))
            .deserialize(&mut json)
            .unwrap();
        let a = packets[0].get("a").unwrap();
        assert_eq!(a.all("b").count(), 2);
        assert_eq!(a.number("b"), Some(1));
        assert_eq!(a.get("c").unwrap().bytes("d"), Some(vec![10, 255]));
        let mut deep = Vec::new();
        packets[0].anywhere("d", &mut deep);
        assert_eq!(deep.len(), 1);
        assert_eq!(packets[1].bytes("e"), Some(vec![]));
    }
}
