//! What the agent's requests look like once they are packed (RFC 7541): there are many ways to pack the same headers, and
//! its HTTP/2 library always takes the same. Used by the accounts of HTTP/2, which compare bytes.

/// Characters of names, paths and values by the length of their code, in the order of the codes (RFC 7541, appendix B).
const CODES: [(u32, &[u8]); 10] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
];

/// `:method: POST` and `:scheme: https`, each one entry of the static table.
const BEGINNING: [u8; 2] = [0x83, 0x87];
/// A value for `:authority` that is to be remembered, one for `:path` that is not, a name and a value that are to be
/// remembered, a value for `content-type` that is to be remembered.
const AUTHORITY: u8 = 0x41;
const PATH: u8 = 0x04;
const NEW_NAME: u8 = 0x40;
const CONTENT_TYPE: u8 = 0x5f;
/// What a first request left in the table: `:authority`, `te` and `content-type`, the newest first from 62 on.
const REMEMBERED: [u8; 3] = [0x80 | 64, 0x80 | 63, 0x80 | 62];

/// The packed headers of a connection's first request, or of a later one. `None` for an authority or path with characters
/// that no host and none of the agent's paths has.
pub(super) fn request(authority: &str, path: &str, is_first: bool) -> Option<Vec<u8>> {
    let mut block = BEGINNING.to_vec();
    let text = |block: &mut Vec<u8>, first: u8, text: &str| {
        block.push(first);
        string(text, block)
    };
    if !is_first {
        let [authority, te, content_type] = REMEMBERED;
        block.push(authority);
        text(&mut block, PATH, path)?;
        block.extend([te, content_type]);
        return Some(block);
    }
    text(&mut block, AUTHORITY, authority)?;
    text(&mut block, PATH, path)?;
    text(&mut block, NEW_NAME, "te")?;
    string("trailers", &mut block)?;
    text(&mut block, CONTENT_TYPE, "application/grpc")?;
    Some(block)
}

/// A text as Huffman codes, behind its length.
fn string(text: &str, block: &mut Vec<u8>) -> Option<()> {
    const HUFFMAN: u8 = 0x80;
    const MOST: usize = 127;
    let (mut codes, mut bits, mut pending) = (Vec::new(), 0_u32, 0_u64);
    for byte in text.bytes() {
        let (code, length) = code(byte)?;
        pending = pending << length | u64::from(code);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            codes.push((pending >> bits & 0xff) as u8);
        }
    }
    if bits > 0 {
        // Filled up with ones.
        let rest = pending << (8 - bits) | (0xff >> bits);
        codes.push((rest & 0xff) as u8);
    }
    let length = codes.len();
    if length < MOST {
        block.push(HUFFMAN | u8::try_from(length).ok()?);
    } else {
        block.push(HUFFMAN | MOST as u8);
        let mut more = length - MOST;
        while more >= 128 {
            block.push((more & 127) as u8 | 128);
            more >>= 7;
        }
        block.push(u8::try_from(more).ok()?);
    }
    block.extend(codes);
    Some(())
}

/// Codes are given out in order: one more for each character, one bit more for each length.
fn code(byte: u8) -> Option<(u32, u32)> {
    let (mut next, mut before) = (0_u32, 0_u32);
    for (length, characters) in CODES {
        next <<= length - before;
        before = length;
        for character in characters {
            if *character == byte {
                return Some((next, length));
            }
            next += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn texts_are_packed_as_the_standards_examples() {
        // RFC 7541, C.4.1 to C.4.3 and C.6.1.
        for (text, packed) in [
            ("www.example.com", "8cf1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "86a8eb10649cbf"),
            ("custom-key", "8825a849e95ba97d7f"),
            ("private", "85aec3771a4b"),
            ("302", "826402"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "96d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            (
                "https://www.example.com",
                "919d29ad171863c78f0b97c8e9ae82ae43d3",
            ),
        ] {
            let mut block = Vec::new();
            string(text, &mut block).unwrap();
            assert_eq!(hex(&block), packed, "{text}");
        }
        assert_eq!(code(b'{'), Some((0x7ffe, 15)));
        assert_eq!(code(0x80), None);
    }

    #[test]
    fn a_first_request_is_packed_as_one_that_was_recorded() {
        let recorded = "83874187089d5c0b8170ff049560f6a6b3a12bd06abaafdc2be7355d58bc\
                        7aaa29134082497f864d833505b11f5f8b1d75d0620d263d4c4d6564";
        let packed = request("127.0.0.1", "/outpost.link.v1.Link/Connect", true).unwrap();
        assert_eq!(hex(&packed), recorded);
    }

    #[test]
    fn a_later_request_refers_to_what_the_first_one_left() {
        let first = request("site.test", "/a", true).unwrap();
        let later = request("site.test", "/a", false).unwrap();
        assert_eq!(hex(&first[..2]), "8387");
        assert_eq!(hex(&later), "8387c00482607fbfbe");
        assert!(later.len() < first.len());
    }
}
