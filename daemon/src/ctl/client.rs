//! The bus as `musectl` sees it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use muse_runtime::Video;
use zbus::{Fd, OwnedObjectPath, OwnedVariant, Variant, proxy};

use super::Error;
use super::args::{Answer, Media, Mode};

pub type Options = HashMap<&'static str, Variant<'static>>;
/// One message of a conversation.
pub type Message = HashMap<String, Variant<'static>>;

#[proxy(
    interface = "org.museproject.Inference1.Manager",
    default_service = "org.museproject.Inference1",
    default_path = "/org/museproject/Inference1"
)]
pub trait Manager {
    fn create_session(&self, model: &str, options: Options) -> zbus::Result<OwnedObjectPath>;
    fn generate(
        &self,
        prompt: &str,
        options: Options,
    ) -> zbus::Result<(String, HashMap<String, OwnedVariant>)>;
    fn embed(
        &self,
        model: &str,
        texts: &[String],
        options: Options,
    ) -> zbus::Result<(Vec<Vec<f64>>, HashMap<String, OwnedVariant>)>;
    fn load(&self, model: &str, options: Options) -> zbus::Result<()>;
    fn unload(&self, model: &str, options: Options) -> zbus::Result<()>;
    fn get_status(&self) -> zbus::Result<HashMap<String, OwnedVariant>>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn default_model(&self) -> zbus::Result<String>;
}

#[proxy(interface = "org.museproject.Inference1.Session", default_service = "org.museproject.Inference1")]
pub trait Session {
    fn respond(&self, messages: &[Message], options: Options) -> zbus::Result<zbus::OwnedFd>;
    fn cancel(&self) -> zbus::Result<()>;
    fn close(&self) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "const"))]
    fn model(&self) -> zbus::Result<String>;
}

#[proxy(
    interface = "org.freedesktop.DBus.ObjectManager",
    default_service = "org.museproject.Inference1",
    default_path = "/org/museproject/Inference1"
)]
pub trait ObjectManager {
    fn get_managed_objects(&self) -> zbus::Result<zbus::fdo::ManagedObjects>;
}

/// Connects to the session bus or the system bus.
pub async fn connect(session: bool) -> Result<zbus::Connection, Error> {
    let builder = match session {
        true => zbus::connection::Builder::session(),
        false => zbus::connection::Builder::system(),
    };
    let (bus, remedy) = match session {
        true => ("session", "run inside a login session, or under dbus-run-session"),
        false => ("system", "is dbus running? For a mused on your own session bus, add --session"),
    };
    builder.build().await.map_err(|problem| Error::NoBus { bus, problem, remedy })
}

pub async fn manager(session: bool) -> Result<ManagerProxy<'static>, Error> {
    Ok(ManagerProxy::new(&connect(session).await?).await?)
}

/// Opens a session with a model.
pub async fn open(session: bool, model: &str) -> Result<SessionProxy<'static>, Error> {
    let manager = manager(session).await?;
    let path = manager.create_session(model, Options::new()).await?;
    Ok(SessionProxy::new(manager.inner().connection(), path).await?)
}

pub fn message(role: &str, content: &str) -> Message {
    [("role", role), ("content", content)].into_iter().map(|(key, text)| field(key, text)).collect()
}

/// A text of a message.
pub fn field(key: &str, text: impl Into<String>) -> (String, Variant<'static>) {
    (key.to_owned(), Variant::from(text.into()))
}

/// A user's message with the files of images and sounds in front of its text, and the frames in the folders of videos. They
/// are sent as they are now, whatever becomes of their paths.
///
/// # Errors
/// [`Error::File`].
pub fn question(text: &str, shown: &Media) -> Result<Message, Error> {
    let mut said = message("user", text);
    let Media { image: images, video: videos, fps, audio: sounds } = shown;
    if !videos.is_empty() {
        let videos = videos.iter().map(|folder| video(folder, fps.unwrap_or_default()));
        said.insert("videos".into(), Variant::from(videos.collect::<Result<Vec<_>, Error>>()?));
    }
    let open = |path: &PathBuf| {
        let file = File::open(path).map_err(|problem| Error::File { path: path.clone(), problem })?;
        Ok(Fd::from(OwnedFd::from(file)))
    };
    for (key, files) in [("images", images), ("audio", sounds)] {
        let fds = files.iter().map(open).collect::<Result<Vec<Fd<'static>>, Error>>()?;
        if !fds.is_empty() {
            said.insert(key.into(), Variant::from(fds));
        }
    }
    Ok(said)
}

/// A video as `Respond` takes it.
fn video(folder: &Path, rate: f64) -> Result<(Fd<'static>, Vec<u64>, f64), Error> {
    let problem = |problem: std::io::Error| Error::File { path: folder.to_owned(), problem };
    let video = Video::open(folder, rate).map_err(problem)?;
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("muse-video", flags).map_err(|e| problem(e.into()))?);
    file.write_all(video.file()).map_err(problem)?;
    Ok((Fd::from(OwnedFd::from(file)), video.sizes(), rate))
}

/// A JSON file.
fn read_json(path: &Path) -> Result<serde_json::Value, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|problem| Error::File { path: path.to_owned(), problem })?;
    serde_json::from_str(&text).map_err(|problem| Error::Json { path: path.to_owned(), problem })
}

/// The conversation in a file. What is not text goes as JSON text.
pub fn read_messages(path: &Path) -> Result<Vec<Message>, Error> {
    let not_messages = || Error::Messages { path: path.to_owned() };
    let message = |message: &serde_json::Value| {
        let fields = message.as_object().ok_or_else(not_messages)?;
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Ok(fields.iter().map(|(key, value)| field(key, text(value))).collect())
    };
    read_json(path)?.as_array().ok_or_else(not_messages)?.iter().map(message).collect()
}

impl Answer {
    /// The options of `Respond`.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Json`] of the tools.
    pub fn options(&self) -> Result<Options, Error> {
        let tools = self.tools.as_deref().map(read_json).transpose()?;
        let schema = self.json_schema.as_deref().map(read_json).transpose()?;
        let mode = self.mode.map(|mode| match mode {
            Mode::Instant => "instant",
            Mode::Thinking => "thinking",
            Mode::Contemplating => "contemplating",
        });
        let stop = (!self.stop.is_empty()).then(|| self.stop.clone());
        let given = [
            ("max_tokens", self.max_tokens.map(Variant::from)),
            ("temperature", self.temperature.map(Variant::from)),
            ("top_p", self.top_p.map(Variant::from)),
            ("top_k", self.top_k.map(Variant::from)),
            ("min_p", self.min_p.map(Variant::from)),
            ("repetition_penalty", self.repetition_penalty.map(Variant::from)),
            ("seed", self.seed.map(Variant::from)),
            ("stop", stop.map(Variant::from)),
            ("mode", mode.map(Variant::from)),
            ("tools", tools.map(|tools| Variant::from(tools.to_string()))),
            ("json_schema", schema.map(|schema| Variant::from(schema.to_string()))),
            ("speculation", self.no_speculation.then(|| Variant::from(false))),
            ("priority", self.background.then(|| Variant::from("background"))),
        ];
        Ok(given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }
}
