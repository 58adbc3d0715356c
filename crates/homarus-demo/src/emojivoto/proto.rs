//! The messages and paths of package `emojivoto.v1`, written by hand so that building needs no `protoc`.
//!
//! Field numbers are the contract; Rust names are ours.

/// One emoji.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Emoji {
    /// The characters themselves.
    #[prost(string, tag = "1")]
    pub unicode: String,
    /// The name, with its colons: `:ghost:`.
    #[prost(string, tag = "2")]
    pub shortcode: String,
}

/// Asks `EmojiService` for all it knows.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListAllEmojiRequest {}

/// All emoji, in the order in which they are shown.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListAllEmojiResponse {
    /// The emoji.
    #[prost(message, repeated, tag = "1")]
    pub list: Vec<Emoji>,
}

/// Asks `EmojiService` for one emoji.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindByShortcodeRequest {
    /// The name, with its colons.
    #[prost(string, tag = "1")]
    pub shortcode: String,
}

/// The emoji, or nothing when there is none of that name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FindByShortcodeResponse {
    /// The emoji.
    #[prost(message, optional, tag = "1")]
    pub emoji: Option<Emoji>,
}

/// A vote; whom it is for is in the method's name.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VoteRequest {}

/// A vote was counted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VoteResponse {}

/// Asks `VotingService` for the leaders.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResultsRequest {}

/// The votes of one emoji.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VotingResult {
    /// The name, with its colons.
    #[prost(string, tag = "1")]
    pub shortcode: String,
    /// How many votes were counted.
    #[prost(int32, tag = "2")]
    pub votes: i32,
}

/// The emoji that have votes, the leader first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResultsResponse {
    /// The leaders.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<VotingResult>,
}

/// The service that knows the emoji.
pub const EMOJI_SERVICE: &str = "emojivoto.v1.EmojiService";
/// The service that counts.
pub const VOTING_SERVICE: &str = "emojivoto.v1.VotingService";
/// All emoji.
pub const LIST_ALL: &str = "ListAll";
/// One emoji.
pub const FIND_BY_SHORTCODE: &str = "FindByShortcode";
/// The leaders.
pub const RESULTS: &str = "Results";

/// The method of `VotingService` that votes for `shortcode`: `:star2:` is `VoteStar2`, `:mrs_claus:` is `VoteMrsClaus`.
pub fn vote_method(shortcode: &str) -> String {
    let mut method = String::from("Vote");
    for word in shortcode.trim_matches(':').split('_') {
        let mut letters = word.chars();
        method.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        method.push_str(letters.as_str());
    }
    method
}
