//! A client that leaves the bus ends its sessions.

use std::sync::Arc;

use futures_util::StreamExt;
use zbus::names::BusName;
use zbus::{Connection, MatchRule, MessageStream, fdo, message};

use crate::bus;
use crate::service::{Client, Error, Service, User};

/// Sees clients leave from the moment it is made.
pub struct Watcher {
    /// `None` on a connection without a bus, where the one client is the other end.
    signals: Option<MessageStream>,
}

/// Made before the service takes its name, so that no client is missed.
///
/// # Errors
/// Those of the connection.
pub async fn watcher(connection: &Connection) -> zbus::Result<Watcher> {
    if !connection.is_bus() {
        return Ok(Watcher { signals: None });
    }
    // A third argument that is empty: the name has no owner any more.
    let vanished = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(2, "")
        .build()?;
    Ok(Watcher { signals: Some(MessageStream::for_match_rule(vanished, connection, None).await?) })
}

impl Watcher {
    /// Ends the sessions of who leaves, until the connection ends.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn follow(self, connection: &Connection, service: &Arc<Service>) -> zbus::Result<()> {
        let Some(mut signals) = self.signals else {
            connection.closed().await;
            end_sessions(connection, service, &None).await;
            return Ok(());
        };
        while let Some(signal) = signals.next().await {
            let signal = signal?;
            let body = signal.body();
            let (name, _, _): (&str, &str, &str) = body.deserialize()?;
            let (connection, service, client) = (connection.clone(), service.clone(), Some(name.to_owned()));
            // Nobody's leaving waits for the end of another's sessions.
            tokio::spawn(async move { end_sessions(&connection, &service, &client).await });
        }
        Ok(())
    }
}

async fn end_sessions(connection: &Connection, service: &Service, client: &Client) {
    for session in service.sessions_of(client) {
        tracing::info!(session = session.id, "its client left");
        bus::end(connection.object_server(), service, &session).await;
    }
}

/// Whose process `client` is, as the bus says; `None` on a connection without a bus.
///
/// # Errors
/// [`Error::UnknownUser`] where the bus does not say, as of a client that has left: nobody is counted as nobody's.
pub async fn user_of(connection: &Connection, client: &Client) -> Result<User, Error> {
    let Some(name) = client else { return Ok(None) };
    let asked = async {
        let name = BusName::try_from(name.as_str())?;
        Ok(fdo::DBusProxy::new(connection).await?.get_connection_unix_user(name).await?)
    };
    asked.await.map(Some).map_err(|problem: zbus::Error| Error::UnknownUser { problem: problem.to_string() })
}

/// False where `client` has left the bus.
pub async fn is_present(connection: &Connection, client: &Client) -> bool {
    let Some(name) = client else { return !connection.is_closed() };
    let Ok(name) = BusName::try_from(name.as_str()) else { return false };
    let Ok(bus) = fdo::DBusProxy::new(connection).await else { return false };
    bus.name_has_owner(name).await.unwrap_or(false)
}
