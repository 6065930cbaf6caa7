use crate::VERSION;

/// Why bytes are not a usable `.muse` file. Every variant carries what a person needs to act on it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    #[error("not a .muse file (or one damaged in a text-mode copy)")]
    Magic,
    #[error(
        "format version {0} is not supported; this build reads version {VERSION}: convert the model again"
    )]
    Version(u32),
    #[error(
        "file is {actual} bytes but its header says {expected}: the copy is incomplete or has trailing data"
    )]
    Length { expected: u64, actual: u64 },
    #[error("{section} at offset {offset}, {len} bytes, does not fit in a file of {file} bytes")]
    Extent { section: String, offset: u64, len: u64, file: u64 },
    #[error("{section} is {len} bytes; at most {limit} are allowed")]
    TooLarge { section: &'static str, len: u64, limit: u64 },
    #[error("{first} and {second} overlap in the file")]
    Overlap { first: String, second: String },
    #[error("tensor {name}: {len} bytes stored, but {rows} x {cols} in {layout} takes {expected}")]
    TensorLength { name: String, rows: u64, cols: u64, layout: String, len: u64, expected: u64 },
    #[error("tensor {index}: {problem}")]
    Tensor { index: usize, problem: String },
    #[error("tensor {0} is named twice")]
    Duplicate(String),
    #[error("tensor {0} is missing")]
    Missing(String),
    #[error("tensor {0} is not used by this model's spec")]
    Unused(String),
    #[error("tensor {name} is {actual_rows} x {actual_cols}; the spec asks for {rows} x {cols}")]
    Shape { name: String, rows: u64, cols: u64, actual_rows: u64, actual_cols: u64 },
    #[error("tensor {name} is stored as {layout}; {problem}")]
    Role { name: String, layout: String, problem: &'static str },
    #[error("{section} is not valid: {problem}")]
    Section { section: &'static str, problem: String },
    #[error("spec: {field} is {value}; {rule}")]
    Spec { field: String, value: String, rule: &'static str },
    #[error("{0} does not match its BLAKE3 hash: the file is damaged, copy or convert it again")]
    Hash(String),
    #[error("reserved bytes at offset {0} are not zero: the file is damaged or from a newer tool")]
    Reserved(u64),
}
