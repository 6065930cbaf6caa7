/// Why there is no NPU to run on, or why it stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RknnError {
    #[error(
        "librknnrt.so cannot be opened ({problem}): install Rockchip's runtime of version 2.3.2 or later, which boards' \
         images and rknn-toolkit2 bring"
    )]
    NoLibrary { problem: String },
    #[error("librknnrt.so is too old ({problem}): version 2.3.2 has all that is needed")]
    OldLibrary { problem: String },
    #[error("{call} of {what} failed: {problem}")]
    Call { call: &'static str, what: String, problem: String },
    #[error("{what} of {shape} is {found}, not {expected}, as librknnrt 2.3.2 has it on an RK3588")]
    Layout { what: &'static str, shape: String, expected: String, found: String },
    #[error(
        "the NPU gives no {wanted} bytes of memory: what it reads must lie below 4 GiB, and nothing there is free"
    )]
    Memory { wanted: usize },
    #[error("the thread of NPU core {core} has ended")]
    Gone { core: usize },
}

/// What a number that the library gave back stands for.
pub(super) fn name_of(code: i32) -> String {
    let name = match code {
        -1 => "it failed",
        -2 => "the NPU did not answer in time",
        -3 => "no NPU is available, or its driver is not loaded",
        -4 => "no memory",
        -5 => "it takes no such parameter on this chip",
        -7 => "its context is invalid",
        -10 => "the driver and librknnrt do not match: update both",
        _ => return format!("error {code}"),
    };
    format!("{name} (error {code})")
}
