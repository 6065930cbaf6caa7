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
