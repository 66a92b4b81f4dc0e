//! Whether the broker answers, asked over one connection that is kept.

use tokio::sync::Mutex;

use super::broker::{Broker, BrokerError, Link};

#[derive(Default)]
pub(crate) struct Pulse(Mutex<Option<Link>>);

impl Pulse {
    /// Whoever gives up waiting takes the connection along: one that hangs is not asked again.
    pub(crate) async fn feel(&self, broker: &Broker) -> Result<(), BrokerError> {
        let mut kept = self.0.lock().await;
        let link = match kept.take().filter(Link::is_open) {
            Some(link) => link,
            None => broker.connect().await?,
        };
        link.ping().await?;
        *kept = Some(link);
        Ok(())
    }
}
