//! A file that appears whole or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("{0} exists already; pass --force to replace it")]
    Exists(String),
    #[error("{0} is not a name for a file")]
    Name(String),
    #[error(
        "{path} needs {needed} bytes, but {folder} has {free} bytes free: make room or choose another folder"
    )]
    Space { path: String, folder: String, needed: u64, free: u64 },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Where a file will be, and a temporary file beside it. Dropping this removes the temporary file.
pub struct Output {
    path: PathBuf,
    folder: PathBuf,
    force: bool,
    temp: NamedTempFile,
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> OutputError {
    move |source| OutputError::Io { path: path.display().to_string(), source }
}

/// Refuses a path that cannot become a new file, before any work is done.
pub fn check(path: &Path, force: bool) -> Result<(), OutputError> {
    if path.file_name().is_none() || path.is_dir() {
        return Err(OutputError::Name(path.display().to_string()));
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(OutputError::Exists(path.display().to_string()));
    }
    Ok(())
}

impl Output {
    /// Makes the temporary file, in the folder of `path`, if `needed` bytes are free there.
    pub fn create(path: &Path, needed: u64, force: bool) -> Result<Self, OutputError> {
        check(path, force)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let space = rustix::fs::statvfs(&folder).map_err(|e| io_at(&folder)(e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < needed {
            let (path, folder) = (path.display().to_string(), folder.display().to_string());
            return Err(OutputError::Space { path, folder, needed, free });
        }
        let name = path.file_name().expect("checked above").to_string_lossy();
        // Less the umask: a service with a user of its own reads the file.
        let temp = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(&folder)
            .map_err(io_at(&folder))?;
        Ok(Self { path: path.into(), folder, force, temp })
    }

    pub fn writer(&self) -> Result<File, OutputError> {
        self.temp.reopen().map_err(io_at(self.temp.path()))
    }

    /// The temporary file, for a last look.
    pub fn temporary(&self) -> &Path {
        self.temp.path()
    }

    /// Brings the bytes to the disk and gives them their name.
    pub fn finish(self, file: File) -> Result<(), OutputError> {
        let failed = io_at(&self.path);
        file.sync_all().map_err(&failed)?;
        if self.force {
            self.temp.persist(&self.path).map_err(|e| failed(e.error))?;
        } else {
            self.temp.persist_noclobber(&self.path).map_err(|e| match e.error.kind() {
                io::ErrorKind::AlreadyExists => OutputError::Exists(self.path.display().to_string()),
                _ => failed(e.error),
            })?;
        }
        // The name is on the disk once its folder is.
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(io_at(&self.folder))
    }
}
