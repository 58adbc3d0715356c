#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use prost::Message;

use super::catalog::{DOUGHNUT, EMOJI, unicode};
use super::proto::{Emoji, FindByShortcodeResponse, VotingResult, vote_method};
use super::voting::Ballot;
use super::web::escaped;

#[test]
fn method_names_are_those_of_the_published_service() {
    for (shortcode, method) in [
        (":doughnut:", "VoteDoughnut"),
        (":stuck_out_tongue_winking_eye:", "VoteStuckOutTongueWinkingEye"),
        (":point_up_2:", "VotePointUp2"),
        (":star2:", "VoteStar2"),
        (":100:", "Vote100"),
        (":jack_o_lantern:", "VoteJackOLantern"),
    ] {
        assert_eq!(vote_method(shortcode), method);
        assert!(unicode(shortcode).is_some(), "{shortcode}");
    }
}

#[test]
fn no_emoji_is_listed_twice() {
    let names: BTreeSet<_> = EMOJI.iter().map(|(name, _)| name).collect();
    let methods: BTreeSet<_> = EMOJI.iter().map(|(name, _)| vote_method(name)).collect();
    let pictures: BTreeSet<_> = EMOJI.iter().map(|(_, unicode)| unicode).collect();
    assert_eq!([names.len(), methods.len(), pictures.len()], [EMOJI.len(); 3]);
    assert!(names.contains(&DOUGHNUT));
}

#[test]
fn messages_have_the_published_bytes() {
    let emoji = Emoji { unicode: "A".into(), shortcode: ":a:".into() };
    assert_eq!(emoji.encode_to_vec(), b"\x0a\x01A\x12\x03:a:");
    let found = FindByShortcodeResponse { emoji: Some(emoji) };
    assert_eq!(found.encode_to_vec(), b"\x0a\x08\x0a\x01A\x12\x03:a:");
    let result = VotingResult { shortcode: "b".into(), votes: 300 };
    assert_eq!(result.encode_to_vec(), b"\x0a\x01b\x10\xac\x02");
    assert_eq!(FindByShortcodeResponse::decode(&b""[..]).unwrap().emoji, None);
}

#[test]
fn the_leader_comes_first_and_equals_by_name() {
    let mut ballot = Ballot::default();
    for shortcode in [":taco:", ":ghost:", ":pizza:", ":ghost:"] {
        ballot.vote(shortcode);
    }
    let leaders = ballot.leaders();
    let order: Vec<_> = leaders.iter().map(|leader| (leader.shortcode.as_str(), leader.votes)).collect();
    assert_eq!(order, [(":ghost:", 2), (":pizza:", 1), (":taco:", 1)]);
}

#[test]
fn a_message_of_the_day_is_no_markup() {
    assert_eq!(escaped("<b>&\"'"), "&lt;b&gt;&amp;&quot;&#39;");
    assert_eq!(escaped("hello 🍩"), "hello 🍩");
}
