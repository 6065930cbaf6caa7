//! What of added tokens the time and memory follow of reading them, and of each of their mentions.
//!
//! The library puts those that ask for it through the normalizer as it reads them, in one go. So they go through ours first,
//! which looks at a clock.

use tokenizers::{AddedToken, NormalizedString};

/// Bytes of an added token, which is looked for at each byte of a text; in use are runs of white space of 93.
const CONTENT_MAX: usize = 256;
/// Bytes of an added token as the normalizer leaves it: a space becomes three, and has one put in front.
const NORMAL_MAX: usize = 1024;
/// Bytes that a normalizer could make of an added token.
const MADE_MAX: usize = 1 << 20;
/// Bytes of all added tokens, of which an automaton is made; Gemma's 6400 are 100 KiB.
const ALL_MAX: usize = 4 << 20;

/// Looks at `tokens`, before the library reads them. `growth` is the most bytes that `normalize` makes of one.
///
/// # Errors
/// The token that has no bound, and where `normalize` fails.
pub(super) fn check_added(
    tokens: &[AddedToken],
    growth: usize,
    normalize: impl Fn(&mut NormalizedString) -> tokenizers::Result<()>,
) -> tokenizers::Result<()> {
    let mut all = 0;
    for token in tokens {
        check_content(token)?;
        let content = token.content.as_str();
        all += content.len();
        if token.normalized {
            let most = content.len().saturating_mul(growth);
            if most > MADE_MAX {
                return Err(format!(
                    "its normalizer could make {most} bytes of an added token of {}; at most {MADE_MAX} are taken",
                    content.len()
                )
                .into());
            }
            let mut normal = NormalizedString::from(content);
            normalize(&mut normal)
                .map_err(|error| format!("its added tokens are not normalized: {error}"))?;
            let len = normal.get().len();
            if len > NORMAL_MAX {
                return Err(format!(
                    "its normalizer makes {len} bytes of an added token of {}; at most {NORMAL_MAX} are taken",
                    content.len()
                )
                .into());
            }
            all += len;
        }
        if all > ALL_MAX {
            return Err(
                format!("its added tokens are more than {ALL_MAX} bytes, the most that are taken").into()
            );
        }
    }
    Ok(())
}

fn check_content(token: &AddedToken) -> Result<(), String> {
    let AddedToken { content, lstrip, rstrip, .. } = token;
    if content.len() > CONTENT_MAX {
        return Err(format!("an added token is {} bytes; at most {CONTENT_MAX} are taken", content.len()));
    }
    // Each of many in a row would look through all of them.
    if (*lstrip || *rstrip) && content.trim().is_empty() {
        return Err(format!(
            "an added token of {} bytes of white space takes in white space around it",
            content.len()
        ));
    }
    Ok(())
}
