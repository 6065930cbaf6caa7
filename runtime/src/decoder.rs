//! Bytes to text as they come.

/// Holds incomplete UTF-8 back; what can never become valid is U+FFFD, as in [`String::from_utf8_lossy`].
#[derive(Debug, Default, Clone)]
pub(crate) struct Utf8Stream {
    /// At most three bytes between calls.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Text that `bytes` complete.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("checked just now"));
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left at the end, replaced.
    pub(crate) fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::Utf8Stream;

    proptest! {
        /// However bytes are cut, valid or not, the text is that of the whole.
        #[test]
        fn any_cut_gives_the_text_of_the_whole(
            text in "[a-zé漢🙂]{0,12}",
            noise in prop::collection::vec(any::<u8>(), 0..12),
            cuts in prop::collection::vec(0usize..60, 0..20),
        ) {
            let bytes = [text.as_bytes(), &noise, text.as_bytes()].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut stream = Utf8Stream::default();
            let mut out: String = cuts.windows(2).map(|cut| stream.push_bytes(&bytes[cut[0]..cut[1]])).collect();
            out.push_str(&stream.take());
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
