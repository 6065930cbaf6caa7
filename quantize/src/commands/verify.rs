use indicatif::{ProgressBar, ProgressStyle};
use muse_format::File;
use muse_runtime::Mapped;
use serde_json::json;

use super::{Failure, at, print, print_json};
use crate::cli::Verify;

pub fn run(args: &Verify) -> Result<(), Failure> {
    let mapped = Mapped::open(&args.file)?;
    let bytes = mapped.bytes();
    let file = File::parse(bytes).map_err(|e| at(&args.file, &e))?;
    let style = ProgressStyle::with_template("{bar:40} {binary_bytes}/{binary_total_bytes} {eta} left")?;
    let bar = ProgressBar::new(bytes.len() as u64).with_style(style);
    file.verify(|done| bar.inc(done)).map_err(|e| at(&args.file, &e))?;
    bar.finish_and_clear();
    let tensors = file.tensors().len();
    if args.json {
        let name = args.file.display().to_string();
        return print_json(&json!({"file": name, "ok": true, "tensors": tensors, "bytes": bytes.len()}));
    }
    print(&format!(
        "{}: {tensors} tensors, {} bytes, every hash is right\n",
        args.file.display(),
        bytes.len()
    ))
}
