//! The bus as `musectl` sees it.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant, Variant, proxy};

use super::Error;
use super::args::{Answer, Mode};

pub type Options = HashMap<&'static str, Variant<'static>>;

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
    fn respond(&self, messages: &[Options], options: Options) -> zbus::Result<zbus::OwnedFd>;
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

/// One message of a conversation.
pub fn message(role: &'static str, content: &str) -> Options {
    Options::from([("role", Variant::from(role)), ("content", Variant::from(content.to_owned()))])
}

impl Answer {
    /// The options of `Respond`.
    pub fn options(&self) -> Options {
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
            ("speculation", self.no_speculation.then(|| Variant::from(false))),
            ("priority", self.background.then(|| Variant::from("background"))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}
