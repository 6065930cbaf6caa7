//! Patterns: they match where the library's do, and a tokenizer's time has a bound whatever they are.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::cut::Cut;
use super::super::watch::Watch;
use super::*;

/// Those of tokenizers in use, and each form that is taken.
const PATTERNS: [&str; 20] = [
    // GPT-2, Llama 3, Qwen 2, Mistral's tekken, GPT-4 as its publisher writes it, DeepSeek 3, SmolLM.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r#"[!"$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
    r"[\p{P}\$\+<=>\^~\|]+",
    r"\p{N}",
    // No match of a space in front of a word, by which a later alternative has its turn, or none.
    r"\s+(?!\S)",
    r"\s+(?!\S)|a",
    r"b|\s+(?=\S)| a|\d+(?!\d)",
    r"\d+(?!\s)|\s+(?!\d)|\p{L}",
    r"(\s*(?!\S))|x",
    // Empty matches.
    "",
    "b*",
    "(?:a|b)*?|c",
    // Ends of texts and lines.
    r"^a|b$",
    r"(?m)^\s+|\s+$",
    // Alternatives of which the first does, not the longest.
    r"a|ab|abc",
    r"(?s:.){2}",
];

/// Matches as the library's engine finds them.
fn expected(pattern: &fancy_regex::Regex, text: &str) -> Vec<(usize, usize)> {
    pattern.find_iter(text).map(|found| found.unwrap()).map(|found| (found.start(), found.end())).collect()
}

fn found(cut: &Cut, text: &str) -> Vec<(usize, usize)> {
    let spans = cut.spans(text, false, &Watch::new(Instant::now() + Duration::from_secs(60))).unwrap();
    let whole: String = spans.iter().map(|((start, end), _)| &text[*start..*end]).collect();
    assert_eq!(whole, text);
    spans.into_iter().filter(|(_, matches)| *matches).map(|(span, _)| span).collect()
}

#[test]
fn a_space_before_a_word_is_left_to_it() {
    let cut = Cut::new(r"\s+(?!\S)|\s+").unwrap();
    assert_eq!(found(&cut, "a   b c "), [(1, 3), (3, 4), (5, 6), (7, 8)]);
}

/// Text of all that patterns tell apart.
fn sample() -> impl Strategy<Value = String> {
    let c = prop::sample::select(
        "aabbBcx'sSlLdD  \n\r\t19\u{b2}.,/-_\u{e9}\u{301}\u{4e2d}\u{1f600}\u{a0}\u{3000}"
            .chars()
            .collect::<Vec<_>>(),
    );
    prop::collection::vec(c, 1..40).prop_map(String::from_iter)
}

static CUTS: LazyLock<Vec<(fancy_regex::Regex, Cut)>> = LazyLock::new(|| {
    let both = |pattern: &&str| (fancy_regex::Regex::new(pattern).unwrap(), Cut::new(pattern).unwrap());
    PATTERNS.iter().map(both).collect()
});

/// What cuts a text, or changes it, around a model of single bytes.
fn tokenizer(normalizer: Value, pre_tokenizer: Value) -> WholeText {
    let mut whole = json("llama/checkpoint/tokenizer.json");
    (whole["normalizer"], whole["pre_tokenizer"]) = (normalizer, pre_tokenizer);
    WholeText::new(whole.to_string().as_bytes()).unwrap()
}

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

static TOKENIZERS: LazyLock<Vec<WholeText>> = LazyLock::new(|| {
    let bytes = |space: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex});
    let all = |steps: &[Value]| json!({"type": "Sequence", "pretokenizers": steps, "normalizers": steps});
    let replace =
        |pattern: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": "<b\u{e9}>"});
    let behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];
    let mut tokenizers = vec![
        tokenizer(Value::Null, bytes(true, true)),
        tokenizer(Value::Null, bytes(false, true)),
        tokenizer(Value::Null, all(&[split(r"\p{N}", "Isolated", false), bytes(true, true)])),
        tokenizer(replace(r"\s+(?!\S)|b"), bytes(false, false)),
        tokenizer(all(&[json!({"type": "NFD"}), replace("b+"), replace(r"^\s+")]), bytes(false, true)),
    ];
    for (behavior, invert) in behaviors.iter().flat_map(|behavior| [(behavior, false), (behavior, true)]) {
        let steps = [split(r"\s+(?!\S)|b+", behavior, invert), bytes(false, false)];
        tokenizers.push(tokenizer(Value::Null, all(&steps)));
    }
    tokenizers
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_pattern_matches_where_the_library_finds_it(text in sample()) {
        for (pattern, cut) in CUTS.iter() {
            assert_eq!(found(cut, &text), expected(pattern, &text), "{} in {text:?}", pattern.as_str());
        }
    }

    #[test]
    fn ids_are_those_of_the_library(text in sample()) {
        for whole in TOKENIZERS.iter() {
            let library = whole.coder.tokenizer.encode_fast(text.as_str(), true).unwrap();
            assert_eq!(whole.encode(&text).unwrap(), library.get_ids(), "{text:?}");
        }
    }
}

#[test]
fn a_pattern_whose_time_has_no_bound_is_refused() {
    let long = "a".repeat(4097);
    for (pattern, words) in [
        // Just under the library's limit it takes 15 ms a byte.
        (r"(?:(?=(a+))a?){19}b(?!c)|a", "a look around that is not of one character"),
        (r"(a+)+(?!b)", "a look around"),
        (r"(?<=a)b", "a look around"),
        (r"\s+(?!\S\S)", "a look around"),
        (r"\s+?(?!\S)", "a look around"),
        (r"\s{2,}(?!\S)", "a look around"),
        (r"(a)\1", "a reference"),
        (r"(?>a+)a", "a group that gives nothing back"),
        (r"a++a", "a group that gives nothing back"),
        (r"\bword\b", "a boundary of words"),
        (r"\w{1000}", "exceeded limit of 2097152"),
        (r"(", "arenthesis"),
        (&long, "4097 bytes; at most 4096"),
    ] {
        let problem = Cut::new(pattern).err().unwrap_or_else(|| panic!("{pattern} is taken"));
        assert!(problem.contains(words), "{pattern:.99}: {problem}");
        let replace = json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""});
        let decoders = json!({"type": "Sequence", "decoders": [replace]});
        for (path, step) in [
            ("/normalizer", &replace),
            ("/pre_tokenizer", &split(pattern, "Isolated", false)),
            ("/decoder", &decoders),
        ] {
            let json = with(path, step.clone());
            let refused = WholeText::new(&json).err().unwrap_or_else(|| panic!("{path} {pattern} is taken"));
            assert_eq!(refused, TextError::Tokenizer(problem.clone()), "{path}");
            let refused = HfText::new(&json, &muse_format::Text::default(), "").err().unwrap();
            assert_eq!(refused, TextError::Tokenizer(problem.clone()), "{path}");
        }
    }
    let many: Vec<Value> = (0..17).map(|n| split(&format!("a{n}"), "Isolated", false)).collect();
    let many = with("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": many}));
    let problem = WholeText::new(&many).err().unwrap().to_string();
    assert!(problem.contains("more than 16 patterns"), "{problem}");
}

/// Its automaton needs another state for each byte.
const STATES: &str = "(?:a|b)*a(?:a|b){2000}c|(?:a|b)";

/// `a` and `b` in no order.
fn letters(len: u32) -> String {
    let letter =
        |at: u32| if at.wrapping_mul(at ^ 0x9e37).count_ones().is_multiple_of(2) { 'a' } else { 'b' };
    (0..len).map(letter).collect()
}

#[test]
fn what_a_pattern_remembers_has_a_bound() {
    let cut = Cut::new(STATES).unwrap();
    found(&cut, &letters(1 << 10));
    let bytes = cut.remembered();
    assert!(bytes > 1 << 20, "{bytes} bytes, of too few states");
    assert!(bytes <= 6 << 20, "{bytes} bytes");
    assert_eq!(cut.keep_fresh(3), 2, "of texts that were read at once");
}

#[test]
fn a_tokenizer_that_is_slow_is_stopped() {
    // Each match looks at the rest of the text: days for these.
    let slow = split("(?s:.)*b|a", "Isolated", false);
    let replace = json!({"type": "Replace", "pattern": {"Regex": "(?s:.)*b|a"}, "content": "a"});
    let states = split(STATES, "Isolated", false);
    let text = letters(1 << 19);
    let text = text.replace("b", "ba");
    for (path, step) in [("/pre_tokenizer", slow), ("/normalizer", replace), ("/pre_tokenizer", states)] {
        let json = with(path, step);
        let mut whole = WholeText::new(&json).unwrap();
        whole.coder.time_max = Duration::from_millis(1);
        let began = Instant::now();
        let too_slow = Err(TextError::TooSlow { bytes: text.len(), seconds: 0 });
        assert_eq!(whole.encode(&text), too_slow, "{path}");
        let mut text_of = HfText::new(&json, &muse_format::Text::default(), "").unwrap();
        text_of.coder.time_max = Duration::from_millis(1);
        assert_eq!(text_of.encode(&text), too_slow, "{path}");
        assert!(began.elapsed() < Duration::from_secs(10), "{path}: {:?}", began.elapsed());
    }
}

#[test]
fn a_run_of_any_length_is_one_match() {
    // More than the library's engine keeps track of, which leaves all of the text in one piece.
    let text = " ".repeat(1_200_000) + "x y";
    let cut = Cut::new(r"\s+(?!\S)|\s+|\p{L}").unwrap();
    let end = text.len();
    assert_eq!(
        found(&cut, &text),
        [(0, end - 4), (end - 4, end - 3), (end - 3, end - 2), (end - 2, end - 1), (end - 1, end)]
    );
}
