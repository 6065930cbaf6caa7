//! What tells the weights of one checkpoint from those of another of the same sizes.

use super::{FAMILIES, find};
use crate::checkpoint::{Checkpoint, ImportError};

/// Rows of the table that are looked at, equally far apart.
const ROWS: usize = 16;

/// A hash of a model's last norm and of some rows of its table, of the values that the checkpoint holds. Training that leaves
/// both alone, of adapters that were merged into other matrices, is not told apart. None where the checkpoint holds no model
/// that has both, and of a GGUF, whose values are rounded ones.
///
/// # Errors
/// [`ImportError`] where the values cannot be read.
pub fn identity(checkpoint: &Checkpoint) -> Result<Option<String>, ImportError> {
    let Some(family) = find(checkpoint, &FAMILIES).ok().filter(|_| checkpoint.source_format != "gguf") else {
        return Ok(None);
    };
    let tensor = |ours| family.find(checkpoint, &family.their_name(ours)).ok();
    let Some(((_, norm), (_, table))) = tensor("norm").zip(tensor("embed")) else { return Ok(None) };
    // Of other shapes it is no model, which is for who imports it to say.
    let ((norms, width), (rows, cols)) = (norm.shape(), table.shape());
    if norms != 1 || rows == 0 || cols == 0 || cols != width {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    for (source, count) in [(norm, 1), (table, ROWS)] {
        let (rows, cols) = source.shape();
        let mut values = vec![0.0; cols];
        for index in 0..count {
            let row = index * rows / count;
            source.read(row..row + 1, &mut values)?;
            values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}
