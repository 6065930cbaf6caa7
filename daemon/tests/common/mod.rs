//! The daemon with simulated engines, and a client at the other end of a socketpair.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod dbus;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muse_daemon::config::Config;
use muse_daemon::models::{LoadProblem, Source, Stamp, Summary};
use muse_daemon::service::Service;
use muse_daemon::{ROOT, bus, clients};
use muse_runtime::sim::TextGate;
use muse_runtime::{Engine, Scheduler, SchedulerOptions, SimEngine, SimOptions};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use zbus::connection::Builder;
use zbus::{Connection, DBusError, Guid, OwnedFd, OwnedObjectPath, OwnedVariant, Variant};

pub type Options = HashMap<&'static str, Variant<'static>>;

/// Far more than anything here takes; reached only where something hangs.
pub const HANGS: Duration = Duration::from_secs(60);

/// Models by name, with the bytes that each is said to take.
pub struct Simulated {
    pub models: Mutex<BTreeMap<String, u64>>,
    pub options: SimOptions,
    /// What the texts of the model `gated` have to pass.
    pub gate: TextGate,
    /// Names in the order of their loads.
    pub loads: Mutex<Vec<String>>,
}

impl Simulated {
    pub fn new(models: &[(&str, u64)]) -> Arc<Self> {
        let models = models.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        // Slow enough that a reader on a busy machine keeps up with an answer that has no end.
        let step_delay = Duration::from_millis(1);
        let options = SimOptions { context: 1 << 20, step_delay, ..SimOptions::default() };
        Arc::new(Self {
            models: Mutex::new(models),
            options,
            gate: TextGate::default(),
            loads: Mutex::default(),
        })
    }
}

impl Source for Simulated {
    fn list(&self) -> std::io::Result<BTreeMap<String, Stamp>> {
        let stamp = |bytes: &u64| Stamp { device: 0, inode: 0, size_bytes: *bytes, modified_ns: 0 };
        Ok(self.models.lock().unwrap().iter().map(|(name, bytes)| (name.clone(), stamp(bytes))).collect())
    }

    fn describe(&self, name: &str) -> Result<Summary, String> {
        if name == "damaged" {
            return Err("its header is damaged".into());
        }
        let size_bytes = self.models.lock().unwrap()[name];
        Ok(Summary { family: "sim".into(), context: 1 << 20, size_bytes, ..Summary::default() })
    }

    fn load(&self, name: &str, budget: Option<u64>) -> Result<Box<dyn Engine>, LoadProblem> {
        if name == "damaged" {
            return Err(LoadProblem::Other("its header is damaged".into()));
        }
        let mut bytes = self.models.lock().unwrap()[name];
        let mut options = self.options.clone();
        if name == "gated" {
            options.text_gate = self.gate.clone();
        }
        // Takes what is left, and would take more.
        if let Some(budget) = budget.filter(|budget| name == "experts" && *budget < bytes) {
            (bytes, options.short_of_memory) = (budget, true);
        }
        if let Some(budget) = budget.filter(|budget| *budget < bytes) {
            return Err(LoadProblem::OverBudget(format!("it takes {bytes} bytes; {budget} are left")));
        }
        self.loads.lock().unwrap().push(name.to_owned());
        Ok(Box::new(SimEngine::new(SimOptions { weight_bytes: bytes, ..options })))
    }
}

/// A running daemon without a bus.
pub struct Daemon {
    pub service: Arc<Service>,
    pub source: Arc<Simulated>,
    /// The daemon's end.
    pub server: Connection,
    /// The client's end.
    pub client: Connection,
}

pub fn config(text: &str) -> Config {
    Config::parse("test.toml".as_ref(), text).unwrap()
}

pub fn scheduler(config: &Config) -> Scheduler {
    Scheduler::start(SchedulerOptions {
        sessions_max: config.limits.sessions as u32,
        queue_max: config.limits.queue as u32,
    })
}

/// One model, `sim`, and the default configuration.
pub async fn daemon() -> Daemon {
    daemon_with("", Simulated::new(&[("sim", 0)]), None).await
}

pub async fn daemon_with(configuration: &str, source: Arc<Simulated>, budget: Option<u64>) -> Daemon {
    let config = config(configuration);
    let scheduler = scheduler(&config);
    let service = Service::new(config, source.clone(), scheduler, budget);
    service.models.refresh().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let guid = Guid::generate();
    let server = Builder::unix_stream(ours).server(guid).p2p().build();
    let client = Builder::unix_stream(theirs).p2p().build();
    let (server, client) = tokio::try_join!(server, client).unwrap();
    let published = bus::publish(&server, &service).await.unwrap();
    let (connection, followed) = (server.clone(), service.clone());
    tokio::spawn(async move { published.follow(&connection, &followed).await });
    let (connection, watched) = (server.clone(), service.clone());
    let watcher = clients::watcher(&connection).await.unwrap();
    tokio::spawn(async move { watcher.follow(&connection, &watched).await });
    Daemon { service, source, server, client }
}

/// The name of an error of a call, without its prefix, and its text.
pub fn refusal(error: &zbus::Error) -> (String, String) {
    match error {
        zbus::Error::MethodError(name, text, _) => {
            let name = name.as_str();
            let short = name.strip_prefix("org.museproject.Inference1.Error.").unwrap_or(name);
            (short.to_owned(), text.clone().unwrap_or_default())
        }
        // Errors of the standard come told apart.
        zbus::Error::FDO(standard) => {
            let text = standard.description().unwrap_or_default();
            (standard.name().as_str().to_owned(), text.to_owned())
        }
        other => panic!("not an error reply: {other}"),
    }
}

pub fn message(role: &'static str, content: &str) -> Options {
    Options::from([("role", Variant::from(role)), ("content", Variant::from(content.to_owned()))])
}

pub fn user(content: &str) -> Vec<Options> {
    vec![message("user", content)]
}

/// Calls on `connection`; `destination` where there is a bus.
#[derive(Clone)]
pub struct Caller {
    pub connection: Connection,
    pub destination: Option<&'static str>,
}

impl Caller {
    pub async fn manager<B>(&self, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::ser::Serialize + zbus::Type,
    {
        self.call(ROOT, "org.museproject.Inference1.Manager", method, body).await
    }

    pub async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> zbus::Result<zbus::Message>
    where
        B: serde::ser::Serialize + zbus::Type,
    {
        let call = self.connection.call_method(self.destination, path, Some(interface), method, body);
        tokio::time::timeout(HANGS, call).await.expect("the call hangs")
    }

    pub async fn open(&self, model: &str) -> zbus::Result<Client> {
        let reply = self.manager("CreateSession", &(model, Options::new())).await?;
        Ok(Client { caller: self.clone(), path: reply.body().deserialize()? })
    }

    pub async fn property(&self, path: &str, interface: &str, name: &str) -> OwnedVariant {
        let reply = self.call(path, "org.freedesktop.DBus.Properties", "Get", &(interface, name)).await;
        reply.unwrap().body().deserialize().unwrap()
    }
}

impl Daemon {
    pub fn caller(&self) -> Caller {
        Caller { connection: self.client.clone(), destination: None }
    }

    pub async fn open(&self) -> Client {
        self.caller().open("sim").await.unwrap()
    }

    /// Waits until `condition` holds of the service's numbers.
    pub async fn until(&self, condition: impl Fn(&muse_daemon::service::Status) -> bool) {
        until(|| condition(&self.service.status())).await;
    }
}

/// Waits until `condition` holds. The pause only spares the processor: nothing depends on its length.
pub async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(HANGS, wait).await.expect("the condition never holds");
}

/// One session as a client holds it.
pub struct Client {
    pub caller: Caller,
    pub path: OwnedObjectPath,
}

impl Client {
    pub async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<zbus::Message>
    where
        B: serde::ser::Serialize + zbus::Type,
    {
        self.caller.call(self.path.as_str(), "org.museproject.Inference1.Session", method, body).await
    }

    pub async fn try_respond(&self, messages: &[Options], options: Options) -> zbus::Result<Stream> {
        let reply = self.call("Respond", &(messages, options)).await?;
        let fd: OwnedFd = reply.body().deserialize()?;
        let socket = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(fd));
        socket.set_nonblocking(true)?;
        Ok(Stream { lines: BufReader::new(UnixStream::from_std(socket)?).lines() })
    }

    pub async fn respond(&self, content: &str) -> Stream {
        self.try_respond(&user(content), Options::new()).await.unwrap()
    }
}

/// The frames of an answer.
pub struct Stream {
    lines: Lines<BufReader<UnixStream>>,
}

impl Stream {
    /// The next frame; `None` at the end of the file.
    pub async fn next(&mut self) -> Option<serde_json::Value> {
        let line = tokio::time::timeout(HANGS, self.lines.next_line()).await.expect("the stream hangs");
        line.unwrap().map(|line| serde_json::from_str(&line).expect("a frame is JSON"))
    }

    /// Text of the deltas, and the last frame. The file ends after it.
    pub async fn finish(&mut self) -> (String, serde_json::Value) {
        let mut text = String::new();
        loop {
            let frame = self.next().await.expect("a last frame before the end of the file");
            match frame["event"].as_str() {
                Some("start") => {}
                Some("delta") => text.push_str(frame["text"].as_str().unwrap()),
                Some("done" | "error") => {
                    assert_eq!(self.next().await, None, "the last frame is the last");
                    return (text, frame);
                }
                _ => panic!("unknown frame {frame}"),
            }
        }
    }

    /// Reads until the first piece of the answer.
    pub async fn first_delta(&mut self) {
        while self.next().await.expect("a delta")["event"] != "delta" {}
    }
}
