//! Stop texts in a stream of deltas.

/// Passes text on and ends it before the first stop text, wherever the deltas are cut.
///
/// The first stop text is the one that is complete first; of two that end together, the one that starts first.
/// Text that may be the start of a stop text is held back until it is known.
#[derive(Debug, Clone)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopFilter {
    /// # Panics
    /// If a stop text is empty; the options are checked before.
    pub fn new(stops: Vec<String>) -> Self {
        assert!(stops.iter().all(|stop| !stop.is_empty()));
        Self { stops, held: String::new(), stopped: false }
    }

    /// True once a stop text was seen; nothing comes out after it.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// What of the text so far may be shown now.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(text);
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = ends.min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let rest = self.held.split_off(self.undecided());
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest suffix of `held` that begins a stop text starts.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::StopFilter;

    /// All that comes out of `deltas`, and whether a stop text ended it.
    fn run(stops: &[String], deltas: &[String]) -> (String, bool) {
        let mut filter = StopFilter::new(stops.to_vec());
        let mut out: String = deltas.iter().map(|delta| filter.push(delta)).collect();
        out.push_str(&filter.finish());
        (out, filter.stopped())
    }

    /// The definition, on the whole text.
    fn search(stops: &[String], text: &str) -> (String, bool) {
        let occurrences = stops.iter().flat_map(|stop| {
            let starts = text
                .char_indices()
                .map(|(at, _)| at)
                .filter(move |&at| text[at..].starts_with(stop.as_str()));
            starts.map(move |start| (start + stop.len(), start))
        });
        occurrences.min().map_or((text.to_owned(), false), |(_, start)| (text[..start].to_owned(), true))
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_possible_start_is_held_back_and_no_more() {
        let mut filter = StopFilter::new(strings(&["END", "é!"]));
        let deltas = [("one E", "one "), ("N", ""), ("E", "EN"), ("é", "E"), ("!", ""), ("more", "")];
        for (delta, expected) in deltas {
            assert_eq!(filter.push(delta), expected, "{delta}");
        }
        assert!(filter.stopped());
        assert_eq!(filter.finish(), "");
    }

    #[test]
    fn the_first_complete_stop_text_wins() {
        for (stops, text, expected) in [
            (["abcd", "bc"], "xabcd", "xa"),
            (["abc", "bc"], "xabc", "x"),
            (["aa", "b"], "aab", ""),
            (["aab", "zz"], "aaab", "a"),
        ] {
            let split: Vec<String> = text.chars().map(String::from).collect();
            assert_eq!(run(&strings(&stops), &split), (expected.to_owned(), true), "{stops:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_is_the_same_as_the_whole(
            stops in prop::collection::vec("[aé漢b]{1,4}", 0..4),
            deltas in prop::collection::vec("[aé漢b]{0,4}", 0..12),
        ) {
            prop_assert_eq!(run(&stops, &deltas), search(&stops, &deltas.concat()));
        }
    }
}
