//! Where a pattern of a tokenizer matches a text.
//!
//! The library's engine goes back and forth in a text as a pattern makes it, for milliseconds a byte, and where that is too
//! much for it, it leaves the rest of the text in one piece. Here a pattern is an automaton, which reads a byte after the
//! other and can be stopped between any two. It takes alternatives that are plain, as the `regex` crate has it, or
//! characters of a class and a look at the one behind them: `\s+(?!\S)`. Tokenizers in use have no others.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use fancy_regex::{Assertion, Expr, LookAround};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};
use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

use super::watch::Watch;

/// Bytes of a pattern; the longest in use have a few hundred.
const PATTERN_MAX: usize = 4096;
/// Bytes of the states of a pattern's automata; those of patterns in use take 140 KiB.
const STATES_MAX: usize = 2 << 20;
/// Bytes that they remember, beyond the least that they need.
const CACHE_BYTES: usize = 4 << 20;
/// Texts for which a pattern keeps what its automata remember: as many as are read at once.
const CACHES_MAX: usize = 2;

/// A pattern, compiled.
pub(super) struct Cut {
    /// The automaton of all alternatives, and behind each that looks behind itself that of those after it.
    stages: Vec<Stage>,
    /// For each alternative, what it wants behind itself.
    behind: Vec<Option<Behind>>,
    /// What the automata have learned of texts, for [`CACHES_MAX`] texts.
    caches: Mutex<Vec<Vec<Cache>>>,
}

struct Stage {
    automaton: DFA,
    /// The alternative that it begins with.
    first: usize,
}

/// What an alternative wants behind a run of characters, each end of which would do.
struct Behind {
    class: ClassUnicode,
    /// Whether the next character has to be of `class`, which is none at the end of a text, or must not.
    wanted: bool,
    /// Whether no character may be a match.
    empty: bool,
}

impl Behind {
    /// The last place from `end` back to `start` that it is behind.
    fn last(&self, text: &str, start: usize, end: usize, watch: &Watch) -> tokenizers::Result<Option<usize>> {
        let mut at = end;
        loop {
            watch.step()?;
            let next = text[at..].chars().next();
            if (at > start || self.empty) && next.is_some_and(|next| has(&self.class, next)) == self.wanted {
                return Ok(Some(at));
            }
            match text[start..at].chars().next_back() {
                Some(c) => at -= c.len_utf8(),
                None => return Ok(None),
            }
        }
    }
}

fn has(class: &ClassUnicode, c: char) -> bool {
    let place = |range: &ClassUnicodeRange| {
        if range.end() < c {
            std::cmp::Ordering::Less
        } else if range.start() > c {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    };
    class.ranges().binary_search_by(place).is_ok()
}

impl Cut {
    /// # Errors
    /// What cannot be read of the pattern, or is too large.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        if pattern.len() > PATTERN_MAX {
            return Err(format!("a pattern of {} bytes; at most {PATTERN_MAX} are taken", pattern.len()));
        }
        let refuse = |problem: String| format!("the pattern {pattern:.200}: {problem}");
        let mut expression = Expr::parse_tree(pattern).map_err(|error| refuse(error.to_string()))?.expr;
        while let Expr::Group(inner) = expression {
            expression = *inner;
        }
        let arms = match expression {
            Expr::Alt(arms) => arms,
            one => vec![one],
        };
        let arms: Vec<_> = arms.into_iter().map(arm).collect::<Result<_, _>>().map_err(refuse)?;
        let (plain, behind): (Vec<_>, Vec<_>) = arms.into_iter().unzip();
        let looks = behind.iter().enumerate().filter(|(_, behind)| behind.is_some()).map(|(at, _)| at + 1);
        let firsts: Vec<usize> =
            std::iter::once(0).chain(looks).filter(|first| *first < plain.len()).collect();
        let stage = |first: usize| {
            let states = thompson::Config::new()
                .nfa_size_limit(Some(STATES_MAX / firsts.len()))
                .which_captures(WhichCaptures::None);
            let config =
                DFA::config().cache_capacity(CACHE_BYTES / firsts.len()).skip_cache_capacity_check(true);
            let built = DFA::builder().configure(config).thompson(states).build_many(&plain[first..]);
            built.map(|automaton| Stage { automaton, first }).map_err(|error| refuse(told(&error)))
        };
        let stages = firsts.iter().map(|first| stage(*first)).collect::<Result<_, _>>()?;
        Ok(Self { stages, behind, caches: Mutex::default() })
    }

    /// Where it matches `text`, and the parts between, in their order; all of them turned where `invert` says so.
    ///
    /// # Errors
    /// Where the time is over.
    pub(super) fn spans(
        &self,
        text: &str,
        invert: bool,
        watch: &Watch,
    ) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), invert)]);
        }
        let free = self.caches.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut caches =
            free.unwrap_or_else(|| self.stages.iter().map(|stage| stage.automaton.create_cache()).collect());
        let mut spans = Vec::with_capacity(text.len());
        let (mut done, mut at, mut before) = (0, 0, None);
        while at <= text.len() {
            let Some((start, end)) = self.next(&mut caches, text, at, watch)? else { break };
            at = end;
            if start == end {
                at += text[end..].chars().next().map_or(1, char::len_utf8);
                if before == Some(end) {
                    continue;
                }
            }
            before = Some(end);
            if done != start {
                spans.push(((done, start), invert));
            }
            spans.push(((start, end), !invert));
            done = end;
        }
        if done != text.len() {
            spans.push(((done, text.len()), invert));
        }
        self.keep(caches);
        Ok(spans)
    }

    fn keep(&self, learned: Vec<Cache>) {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if caches.len() < CACHES_MAX {
            caches.push(learned);
        }
    }

    /// Bytes that its automata remember.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.iter().flatten().map(Cache::memory_usage).sum()
    }

    /// Keeps what is learned of no text, `texts` times.
    #[cfg(test)]
    pub(super) fn keep_fresh(&self, texts: usize) -> usize {
        let fresh = || self.stages.iter().map(|stage| stage.automaton.create_cache()).collect();
        (0..texts).for_each(|_| self.keep(fresh()));
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The first match that starts at `from` or behind.
    fn next(
        &self,
        caches: &mut [Cache],
        text: &str,
        from: usize,
        watch: &Watch,
    ) -> tokenizers::Result<Option<Offsets>> {
        let mut start = from;
        loop {
            if let Some(end) = self.end(caches, text, start, watch)? {
                return Ok(Some((start, end)));
            }
            let Some(c) = text[start..].chars().next() else { return Ok(None) };
            start += c.len_utf8();
        }
    }

    /// Where the match that starts at `start` ends.
    fn end(
        &self,
        caches: &mut [Cache],
        text: &str,
        start: usize,
        watch: &Watch,
    ) -> tokenizers::Result<Option<usize>> {
        let mut first = 0;
        loop {
            let Some(at) = self.stages.iter().position(|stage| stage.first == first) else { return Ok(None) };
            let stage = &self.stages[at];
            let Some((end, arm)) = stage.end(&mut caches[at], text.as_bytes(), start, watch)? else {
                return Ok(None);
            };
            let Some(behind) = &self.behind[arm] else { return Ok(Some(end)) };
            if let Some(end) = behind.last(text, start, end, watch)? {
                return Ok(Some(end));
            }
            first = arm + 1;
        }
    }
}

impl Stage {
    /// Where the match that starts at `start` ends, and the alternative that it is of.
    fn end(
        &self,
        cache: &mut Cache,
        text: &[u8],
        start: usize,
        watch: &Watch,
    ) -> tokenizers::Result<Option<(usize, usize)>> {
        let automaton = &self.automaton;
        let arm = |cache: &Cache, state| self.first + automaton.match_pattern(cache, state, 0).as_usize();
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        let mut state = automaton.start_state_forward(cache, &input)?;
        let mut found = None;
        for (at, byte) in text.iter().enumerate().skip(start) {
            watch.step()?;
            state = automaton.next_state(cache, state, *byte)?;
            if state.is_match() {
                // It is told a byte late.
                found = Some((at, arm(cache, state)));
            } else if state.is_dead() {
                return Ok(found);
            }
        }
        watch.step()?;
        state = automaton.next_eoi_state(cache, state)?;
        Ok(if state.is_match() { Some((text.len(), arm(cache, state))) } else { found })
    }
}

/// A pattern on a text that is watched.
pub(super) struct Watched<'a> {
    pub(super) cut: &'a Cut,
    pub(super) invert: bool,
    pub(super) watch: &'a Watch,
}

impl Pattern for Watched<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        self.cut.spans(inside, self.invert, self.watch)
    }
}

/// An alternative as the `regex` crate writes it, but for what it wants behind itself.
fn arm(mut arm: Expr) -> Result<(String, Option<Behind>), String> {
    while let Expr::Group(inner) = arm {
        arm = *inner;
    }
    yielding(&mut arm, &[]);
    if let Expr::Concat(parts) = &mut arm {
        for at in (0..parts.len()).rev() {
            let (before, rest) = parts.split_at_mut(at + 1);
            yielding(&mut before[at], rest);
        }
        if let [Expr::Repeat { child, lo: lo @ (0 | 1), greedy: true, .. }, Expr::LookAround(next, look)] =
            parts.as_slice()
            && class(child).is_some()
            && let Some(class) = class(next)
            && let LookAround::LookAhead | LookAround::LookAheadNeg = look
        {
            let behind = Behind { class, wanted: *look == LookAround::LookAhead, empty: *lo == 0 };
            return Ok((plain(&parts[0])?, Some(behind)));
        }
    }
    Ok((plain(&arm)?, None))
}

/// Makes of a run that gives no character back (`\s++`) an ordinary one where the parts behind it want none of its
/// characters, or need none at all.
fn yielding(run: &mut Expr, rest: &[Expr]) {
    let Expr::AtomicGroup(inner) = &*run else { return };
    let Expr::Repeat { child, greedy: true, .. } = &**inner else { return };
    let Some(class_of_run) = class(child) else { return };
    let wants = |part: &Expr| match part {
        Expr::Repeat { child, lo, .. } => class(child).map(|class| (class, *lo == 0)),
        Expr::Assertion(Assertion::EndText) => Some((ClassUnicode::empty(), false)),
        part => class(part).map(|class| (class, false)),
    };
    for at in 0..rest.len() {
        let Some((mut class, optional)) = wants(&rest[at]) else { return };
        class.intersect(&class_of_run);
        if !class.ranges().is_empty() {
            let needs_none = |part| wants(part).is_some_and(|(_, optional)| optional);
            if rest[at..].iter().all(needs_none) {
                break;
            }
            return;
        }
        if !optional {
            break;
        }
    }
    *run = (**inner).clone();
}

/// The characters of an expression that is one of them.
fn class(expression: &Expr) -> Option<ClassUnicode> {
    let read = regex_syntax::parse(&plain(expression).ok()?).ok()?;
    match read.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        HirKind::Literal(literal) => {
            let mut chars = std::str::from_utf8(&literal.0).ok()?.chars();
            let c = chars.next().filter(|_| chars.next().is_none())?;
            Some(ClassUnicode::new([ClassUnicodeRange::new(c, c)]))
        }
        _ => None,
    }
}

/// An expression as the `regex` crate writes it.
fn plain(expression: &Expr) -> Result<String, String> {
    check(expression)?;
    let mut out = String::new();
    expression.to_str(&mut out, 0);
    Ok(out)
}

/// That the `regex` crate has all of an expression.
fn check(expression: &Expr) -> Result<(), String> {
    let has = match expression {
        Expr::Empty | Expr::Any { .. } | Expr::Literal { .. } | Expr::Delegate { .. } => return Ok(()),
        Expr::Assertion(
            Assertion::StartText
            | Assertion::EndText
            | Assertion::StartLine { .. }
            | Assertion::EndLine { .. },
        ) => return Ok(()),
        Expr::Concat(parts) | Expr::Alt(parts) => return parts.iter().try_for_each(check),
        Expr::Group(inner) | Expr::Repeat { child: inner, .. } => return check(inner),
        Expr::Assertion(_) => "a boundary of words",
        Expr::LookAround(..) => "a look around that is not of one character behind a run",
        Expr::AtomicGroup(_) => "a group that gives nothing back",
        _ => "a reference to what was matched, or a condition",
    };
    Err(format!(
        "it has {has}, whose time has no bound; taken are plain alternatives, and runs of a class with a look at the \
         next character"
    ))
}

/// An error and what it was made of.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
