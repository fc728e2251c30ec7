//! Certificates are renewed: which key is good when.

use crate::record::Presence;

use super::*;

fn open(conn: u64, key: &str, not_after: u64) -> Happened {
    Happened::Opened {
        conn: Conn(conn),
        tenant: name("acme"),
        agent: name("bank"),
        spiffe_id: "spiffe://test/tenant/acme/agent/bank".into(),
        key_hash: key.into(),
        not_after,
    }
}

/// Beside the stream of this connection.
fn renew(
    rig: &mut Rig,
    beside: impl Into<Option<Conn>>,
    agent: &str,
    (key, next): (&str, &str),
) -> Result<Answer, Denied> {
    let call = Call(77);
    let event = Happened::Renew {
        call,
        tenant: name("acme"),
        agent: name(agent),
        key_hash: key.into(),
        next_key: next.into(),
        beside: beside.into(),
    };
    let said = rig.turn(&[event]);
    let [Speech::Answer { answer, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    answer.clone()
}

/// A stream with this key: accepted, or ended for this reason.
fn opens(rig: &mut Rig, conn: u64, key: &str) -> Option<CloseReason> {
    match &rig.turn(&[open(conn, key, 0)])[..] {
        [] => {
            rig.turn(&[Happened::Closed { conn: Conn(conn) }]);
            None
        }
        [Speech::Close { why, .. }] => Some(*why),
        said => panic!("{said:?}"),
    }
}

#[test]
fn the_present_key_is_good_until_the_next_one_is_used() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    assert_eq!(
        renew(&mut rig, site.conn, "bank", ("key", "second")),
        Ok(Answer::Renewed)
    );
    assert_eq!(opens(&mut rig, 50, "key"), None);
    assert_eq!(
        opens(&mut rig, 51, "second"),
        None,
        "a stream alone is no use"
    );
    assert_eq!(opens(&mut rig, 52, "key"), None);
    assert_eq!(opens(&mut rig, 53, "third"), Some(CloseReason::OtherKey));

    // Another request takes the place of the one whose answer never arrived.
    let renewed = renew(&mut rig, site.conn, "bank", ("key", "third"));
    assert_eq!(renewed, Ok(Answer::Renewed));
    assert_eq!(opens(&mut rig, 54, "second"), Some(CloseReason::OtherKey));

    // The session beside goes on until Hello; from then on only the new key is good.
    site.conn = Conn(60);
    assert_eq!(rig.turn(&[open(60, "third", 99)]), []);
    let hello = site.hello();
    let said = site.says(&mut rig, hello);
    let replaced = |said: &Speech| {
        matches!(
            said,
            Speech::Close {
                why: CloseReason::Replaced,
                ..
            }
        )
    };
    assert_eq!(
        said.iter().filter(|said| replaced(said)).count(),
        1,
        "{said:?}"
    );
    assert_eq!(opens(&mut rig, 61, "second"), Some(CloseReason::OtherKey));
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert_eq!(
        (
            record.key_hash.as_str(),
            &record.next_key,
            record.certificate_not_after
        ),
        ("third", &None, Some(99))
    );
    let Ok(Answer::Agents(agents)) = rig.ask(Ask::Agents) else {
        panic!()
    };
    assert!(agents[0].connected);
    assert_eq!(agents[0].presence, Presence::Live);
}

#[test]
fn a_renewal_under_the_next_key_counts_as_its_use() {
    let mut rig = Rig::new();
    let conn = rig.site("bank").conn;
    assert_eq!(
        renew(&mut rig, conn, "bank", ("key", "second")),
        Ok(Answer::Renewed)
    );
    assert_eq!(
        renew(&mut rig, conn, "bank", ("second", "third")),
        Ok(Answer::Renewed)
    );
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert_eq!(record.standing.left_keys, ["key"]);
    assert_eq!(opens(&mut rig, 51, "second"), None);
    assert_eq!(opens(&mut rig, 52, "third"), None);
}

#[test]
fn neither_a_stranger_nor_a_removed_agent_renews() {
    let mut rig = Rig::new();
    let conn = rig.site("bank").conn;
    let denied = |agent: &str| Err(Denied::UnknownAgent(name(agent)));
    assert_eq!(
        renew(&mut rig, conn, "stranger", ("key", "next")),
        denied("stranger")
    );
    let refused = renew(&mut rig, conn, "bank", ("another", "next"));
    assert_eq!(refused, denied("bank"));
    let remove = Ask::RemoveAgent {
        agent: name("bank"),
    };
    assert_eq!(rig.ask_in("acme", remove).0, Ok(Answer::Removed));
    let refused = renew(&mut rig, conn, "bank", ("key", "next"));
    assert_eq!(refused, denied("bank"));
}

#[test]
fn only_beside_the_agents_own_session_a_certificate_is_renewed() {
    let mut rig = Rig::new();
    let site = rig.site("bank");
    let keys = ("key", "next");
    let refused = Err(Denied::NotTheHolder(name("bank")));
    assert_eq!(renew(&mut rig, None, "bank", keys), refused, "no stream");
    assert_eq!(renew(&mut rig, Conn(99), "bank", keys), refused);
    // A stream that has not said Hello is nobody's session yet.
    assert_eq!(rig.turn(&[open(60, "key", 0)]), []);
    assert_eq!(renew(&mut rig, Conn(60), "bank", keys), refused);
    let renewed = renew(&mut rig, site.conn, "bank", keys);
    assert_eq!(renewed, Ok(Answer::Renewed));
    rig.turn(&[Happened::Closed { conn: site.conn }]);
    assert_eq!(renew(&mut rig, site.conn, "bank", keys), refused, "gone");
}
