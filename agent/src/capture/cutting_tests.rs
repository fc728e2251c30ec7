//! Where messages are cut into frames: where a frame is full or a window ends, and hardly anywhere else; and what an address in
//! the place of a name makes of a connection.

use super::tests::*;
use super::*;

const CUT: &str =
    "HTTP/2 DATA frames that end within a message, and are not full, oftener than the agent's";

/// What is told but for the message itself, which is in no ledger here.
fn told_besides(play: Play) -> Vec<String> {
    let report = play.end();
    let all = told(&report).into_iter().map(str::to_owned);
    all.filter(|what| !what.contains("ledger's next frame"))
        .collect()
}

fn bytes(count: usize) -> String {
    vec!["61"; count].join(":")
}

/// A message of so many bytes, cut into frames with these.
fn cut_into(play: &mut Play, message: usize, frames: &[usize]) {
    assert_eq!(frames.iter().sum::<usize>(), 5 + message);
    let prefix = u32::try_from(message).unwrap().to_be_bytes();
    let prefix: Vec<_> = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
    let whole = format!("00:{}:{}", prefix.join(":"), bytes(message));
    let whole: Vec<_> = whole.split(':').collect();
    let mut from = 0;
    for length in frames {
        let text = whole[from..from + length].join(":");
        play.says_one(*length as u64, &data("0x00", &text));
        from += length;
    }
}

#[test]
fn a_message_is_cut_where_a_frame_is_full_and_not_elsewhere() {
    let full = usize::try_from(http2::FULL_FRAME).unwrap();
    let mut play = Play::asking();
    cut_into(&mut play, 2 * full, &[full, full, 5]);
    cut_into(&mut play, 6, &[11]);
    assert_eq!(told_besides(play), [""; 0]);
    // One byte after the other, each in a frame of its own, or where it pleases.
    for frames in [&[1_usize; 11][..], &[3, 7, 1]] {
        let mut play = Play::asking();
        cut_into(&mut play, 6, frames);
        assert_eq!(told_besides(play), [CUT], "once");
    }
    // Full but for one byte.
    let mut play = Play::asking();
    cut_into(&mut play, 2 * full, &[full - 1, full - 1, 7]);
    assert_eq!(told_besides(play), [CUT]);
}

#[test]
fn a_message_is_cut_where_a_window_ended_that_was_widened_then() {
    let mut play = Play::asking();
    let windows = |play: &mut Play, count: usize| {
        for _ in 0..count {
            play.hears(4, &window("0", "9"));
        }
    };
    windows(&mut play, 9);
    cut_into(&mut play, 6, &[1; 11]);
    assert_eq!(told_besides(play), [""; 0], "ten cuts");
    let mut play = Play::asking();
    windows(&mut play, 8);
    cut_into(&mut play, 6, &[1; 11]);
    assert_eq!(told_besides(play), [CUT]);
}

#[test]
fn an_orchestrator_with_an_ipv6_address_has_it_in_brackets_in_requests_and_no_name_in_the_hello() {
    let begun = || Play::with("::1").greets().begins();
    let mut play = begun();
    let (length, frame) = headers_for("[::1]", "1", &[]);
    play.says_one(length, &frame);
    assert_eq!(told_besides(play), [""; 0]);
    // As the name of a host it would not be one.
    let mut play = begun();
    let (length, frame) = headers_for("::1", "1", &[]);
    play.says_one(length, &frame);
    let what = "the request header \":authority\" with the value \"::1\"";
    assert_eq!(told_besides(play), [what]);
    // Nor is one that is written otherwise the same.
    let mut play = Play::with("fe80::1").greets().begins();
    let (length, frame) = headers_for("[fe80:0::1]", "1", &[]);
    play.says_one(length, &frame);
    let what = "the request header \":authority\" with the value \"[fe80:0::1]\"";
    assert_eq!(told_besides(play), [what]);
}
