//! Every message there and back, and what is no message.

use super::*;

fn to_link() -> Vec<ToLink> {
    let bytes = Bytes::from_static(b"\x00opaque\xff");
    let mut all = vec![
        ToLink::Open { conn: 1 },
        ToLink::Frame {
            conn: u64::MAX,
            bytes: bytes.clone(),
        },
        ToLink::Frame {
            conn: 2,
            bytes: Bytes::new(),
        },
        ToLink::Close { conn: 3 },
        ToLink::MakeCsr { conn: 4 },
        ToLink::Prove {
            session_nonce: 1 << 63,
            challenge: Bytes::from_static(&[7; 32]),
        },
        ToLink::StoreIdentity {
            chain: vec![vec![1, 2], vec![3]],
            roots: vec![vec![4; 900]],
        },
    ];
    for method in [UnaryMethod::Enrol, UnaryMethod::Renew, UnaryMethod::Recover] {
        all.push(ToLink::Unary {
            conn: 5,
            method,
            bytes: bytes.clone(),
        });
    }
    all
}

fn from_link() -> Vec<FromLink> {
    let bytes = Bytes::from_static(b"\x00opaque\xff");
    let mut all = vec![
        FromLink::Confined(Confinement::new(7, 60_917, Vec::new())),
        FromLink::Confined(Confinement::new(0, u32::MAX, Missing::ALL.to_vec())),
        FromLink::Ready {
            certificate_since_s: 0,
            certificate_not_after_s: 0,
            spiffe_id: String::new(),
        },
        FromLink::Ready {
            certificate_since_s: 1 << 32,
            certificate_not_after_s: 1 << 33,
            spiffe_id: "spiffe://d/tenant/t/agent/a".into(),
        },
        FromLink::Opened { conn: 1 },
        FromLink::Server {
            conn: 1,
            chain: vec![vec![1; 600], vec![2]],
        },
        FromLink::Ends {
            conn: 1,
            at_s: 1 << 33,
        },
        FromLink::Frame {
            conn: 2,
            bytes: bytes.clone(),
        },
        FromLink::Csr { der: vec![1, 2, 3] },
        FromLink::Proof {
            certificate: vec![1; 700],
            csr: vec![2; 300],
            proof: vec![3; 72],
        },
        FromLink::Proof {
            certificate: Vec::new(),
            csr: Vec::new(),
            proof: Vec::new(),
        },
        FromLink::Reply {
            conn: 3,
            ok: true,
            code: 0,
            bytes,
            text: String::new(),
        },
        FromLink::Reply {
            conn: 3,
            ok: false,
            code: 16,
            bytes: Bytes::new(),
            text: "token used".into(),
        },
        FromLink::Stored {
            ok: true,
            text: String::new(),
        },
        FromLink::Stored {
            ok: false,
            text: "disk full".into(),
        },
    ];
    for number in 1..=13 {
        all.push(FromLink::Closed {
            conn: 9,
            reason: reason(number).unwrap(),
            text: "why".into(),
        });
    }
    all
}

#[test]
fn every_message_survives_the_round_trip() {
    for message in to_link() {
        assert_eq!(ToLink::decode(&message.encode()).unwrap(), message);
    }
    for message in from_link() {
        assert_eq!(FromLink::decode(&message.encode()).unwrap(), message);
    }
}

#[test]
fn every_reason_has_its_own_number() {
    for number in 1..=13 {
        assert_eq!(reason_number(reason(number).unwrap()), number);
    }
    assert!(reason(0).is_err() && reason(14).is_err());
}

#[test]
fn damaged_packets_are_refused_and_never_panic() {
    assert!(ToLink::decode(&[]).is_err());
    assert!(FromLink::decode(&[]).is_err());
    for packet in to_link()
        .iter()
        .map(ToLink::encode)
        .chain(from_link().iter().map(FromLink::encode))
    {
        for end in 0..packet.len() {
            let _ = (
                ToLink::decode(&packet[..end]),
                FromLink::decode(&packet[..end]),
            );
        }
        for place in 0..packet.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = packet.clone();
                bad[place] = value;
                let _ = (ToLink::decode(&bad), FromLink::decode(&bad));
            }
        }
    }
    let mut longer = ToLink::Open { conn: 1 }.encode();
    longer.push(0);
    assert!(matches!(
        ToLink::decode(&longer),
        Err(IpcError::Malformed("trailing bytes"))
    ));
    // The two directions cannot be taken for each other.
    assert!(FromLink::decode(&ToLink::Open { conn: 1 }.encode()).is_err());
}

#[test]
fn limits_hold_at_both_bounds() {
    let fits = ToLink::Frame {
        conn: 1,
        bytes: vec![7; MAX_FRAME_BYTES].into(),
    };
    assert_eq!(ToLink::decode(&fits.encode()).unwrap(), fits);
    let over = ToLink::Frame {
        conn: 1,
        bytes: vec![7; MAX_FRAME_BYTES + 1].into(),
    };
    assert!(ToLink::decode(&over.encode()).is_err());
    let many = ToLink::StoreIdentity {
        chain: vec![vec![1]; MAX_CERTIFICATES + 1],
        roots: vec![vec![1]],
    };
    assert!(ToLink::decode(&many.encode()).is_err());
    let none = ToLink::StoreIdentity {
        chain: vec![],
        roots: vec![vec![1]],
    };
    assert!(ToLink::decode(&none.encode()).is_err());
}

#[test]
fn texts_become_one_bounded_line() {
    let long = format!("a\nb\u{7}{}", "ä".repeat(400));
    let line = bounded_text(&long);
    assert!(line.len() <= MAX_TEXT_BYTES && line.starts_with("a b "));
    assert!(!line.contains('\n'));
}
