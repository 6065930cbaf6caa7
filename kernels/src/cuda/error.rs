/// Why there is no GPU to run on, or why it stopped. What went wrong once on a device makes its context useless: drop the
/// backend and make another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    #[error("this build has no CUDA; build it with `--features cuda`")]
    NotBuilt,
    #[error(
        "there is no libcuda.so.1: install NVIDIA's driver (on a Jetson the package nvidia-l4t-cuda of JetPack)"
    )]
    NoDriver,
    #[error(
        "the driver is for CUDA {found} and {needed} is needed: update the driver, or JetPack on a Jetson"
    )]
    OldDriver { found: String, needed: String },
    #[error("the driver finds no GPU ({problem}); `nvidia-smi` shows what it sees")]
    NoDevice { problem: String },
    #[error("{device} is sm_{sm}; kernels are for sm_{needed} and newer")]
    OldDevice { device: String, sm: u32, needed: u32 },
    #[error("the driver does not take this build's kernels for sm_{sm}: {problem}")]
    Image { sm: u32, problem: String },
    #[error("this build's kernels lack `{kernel}`: {problem}")]
    MissingKernel { kernel: &'static str, problem: String },
    #[error(
        "{device} cannot read a file in place, as CU_DEVICE_ATTRIBUTE_{missing}; leave out weights = \"shared\", and they \
         are copied to it"
    )]
    NotShared { device: String, missing: &'static str },
    #[error(
        "{device} reads other bytes in place than the file holds; leave out weights = \"shared\", and they are copied to it"
    )]
    SharedBytes { device: String },
    #[error("{call} failed: {problem}")]
    Call { call: &'static str, problem: String },
}
