//! Hints by pub/sub. One connection subscribes to a channel for each session of a store and its
//! clones; it exists while any of them listens. A hint may be lost or wrong, so nothing here is
//! ever an error of a user's.
//!
//! Invariant: a session's `works` is true only while its channel is subscribed to. Each time it
//! becomes true the hint is called, since something may have been missed before.

use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{
    future::{join_all, select},
    stream::StreamExt,
};
use redis::{
    Client, Msg, RedisError, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    client::{prepare_tls, with_settings},
    error::is_outage,
    keys::PartitionKeys,
    recovery::Recovery,
};
use crate::{
    store::{Hint, Listening},
    sync::{Mutex, lock},
};

/// How long a connection or a subscription may take.
const REPLY_WITHIN: Duration = Duration::from_secs(3);

/// How often a subscription is made once more, to see whether the server is still there.
const HEARTBEAT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5_000 });

/// The pause before the first attempt to connect again. It doubles with each attempt, up to the
/// longest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The pause after the server refused: an administrator has to change something first.
const PAUSE_AFTER_REFUSAL: Duration =
    Duration::from_millis(if cfg!(test) { 1_000 } else { 60_000 });

/// The sessions of a store that listen, and where they do.
#[derive(Clone)]
pub(super) struct Hints(Arc<HintsInner>);

struct HintsInner {
    server: Server,
    listeners: Mutex<Listeners>,
    /// The listeners changed.
    changed: Notify,
    /// The connection may lead to the wrong server.
    doubted: Notify,
    recovery: Recovery,
    /// No task serves the listeners: the runtime of the last one shut down, or there was none.
    /// Written with the listeners locked.
    unserved: AtomicBool,
}

/// Where messages come from.
enum Server {
    Single(Box<Client>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<redis::cluster::ClusterClient>),
}

#[derive(Default)]
struct Listeners {
    by_channel: HashMap<Channel, Listener>,
    /// The number of the next listener.
    next: u64,
    /// A task serves them.
    served: bool,
}

type Channel = Arc<[u8]>;

/// A session that listens.
struct Listener {
    number: u64,
    /// Those of its buckets.
    keys: Arc<PartitionKeys>,
    hint: Hint,
    works: Arc<AtomicBool>,
}

impl Hints {
    /// Hints from one server.
    pub(super) fn from_server(client: Client) -> Self {
        prepare_tls(client.get_connection_info());
        // Channels are those of all databases.
        let client = with_settings(client, |settings| settings.set_db(0));
        Self::of(Server::Single(Box::new(client)))
    }

    /// Hints from the shards of a cluster. The client must speak RESP3.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn from_cluster(client: redis::cluster::ClusterClient) -> Self {
        Self::of(Server::Cluster(Box::new(client)))
    }

    fn of(server: Server) -> Self {
        let shared = HintsInner {
            server,
            listeners: Mutex::default(),
            changed: Notify::new(),
            doubted: Notify::new(),
            recovery: Recovery::default(),
            unserved: AtomicBool::new(false),
        };
        Self(Arc::new(shared))
    }

    /// True if messages go to one shard of a cluster.
    pub(super) fn are_sharded(&self) -> bool {
        self.0.server.is_sharded()
    }

    /// Calls `hint` with the name of a bucket for each message on the session's channel, which is
    /// the bucket's key.
    pub(super) fn listen(&self, keys: PartitionKeys, session: u64, hint: Hint) -> Listening {
        let works = Arc::new(AtomicBool::new(false));
        let mut channel = keys.channel_prefix();
        channel.extend(session.to_string().into_bytes());
        let channel: Channel = channel.into();
        let mut listeners = lock(&self.0.listeners);
        let number = listeners.next;
        listeners.next += 1;
        let listener = Listener { number, keys: Arc::new(keys), hint, works: works.clone() };
        let replaced = listeners.by_channel.insert(channel.clone(), listener);
        drop(listeners);
        // What a hint owns may itself listen, so it is dropped without the lock.
        drop(replaced);
        self.0.changed.notify_one();
        self.serve();
        Listening::new(works, ListenerGuard { number, channel, shared: self.0.clone() })
    }

    /// Serves the listeners in the current runtime if the one that did so has ended.
    pub(super) fn revive(&self) {
        if self.0.unserved.load(Ordering::Relaxed) {
            self.serve();
        }
    }

    /// Connects anew: where the server's address leads now, another server may be.
    pub(super) fn doubt(&self) {
        self.0.doubted.notify_waiters();
    }

    /// Knows whether the server answers commands. Once it does again the connection for hints is
    /// made: until then the sessions look by themselves, and may come too late for their turns.
    pub(super) fn recovery(&self) -> &Recovery {
        &self.0.recovery
    }

    /// Starts the task that serves the listeners, unless there is one.
    fn serve(&self) {
        let runtime = Handle::try_current();
        let mut listeners = lock(&self.0.listeners);
        if listeners.served {
            return;
        }
        listeners.served = runtime.is_ok();
        self.0.unserved.store(runtime.is_err(), Ordering::Relaxed);
        let Ok(runtime) = runtime else { return };
        // A runtime that is shutting down drops the task here, which takes the lock.
        drop(listeners);
        runtime.spawn(serve(Serving { shared: self.0.clone(), over: false }));
    }
}

/// Ends the hints of a session when dropped.
struct ListenerGuard {
    number: u64,
    channel: Channel,
    shared: Arc<HintsInner>,
}

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        let mut listeners = lock(&self.shared.listeners);
        // The session may listen anew already.
        if listeners
            .by_channel
            .get(&self.channel)
            .is_some_and(|listener| listener.number == self.number)
        {
            let removed = listeners.by_channel.remove(&self.channel);
            drop(listeners);
            // What a hint owns may itself listen, so it is dropped without the lock.
            drop(removed);
            self.shared.changed.notify_one();
        }
    }
}

impl HintsInner {
    fn channels(&self) -> HashMap<Channel, Wanted> {
        let listeners = lock(&self.listeners);
        let wanted = |listener: &Listener| Wanted {
            listener: listener.number,
            works: listener.works.load(Ordering::Relaxed),
        };
        let channels = listeners.by_channel.iter();
        channels.map(|(channel, listener)| (channel.clone(), wanted(listener))).collect()
    }

    /// Passes a message on.
    fn dispatch(&self, message: &Msg) {
        let listeners = lock(&self.listeners);
        let Some(listener) = listeners.by_channel.get(message.get_channel_name().as_bytes()) else {
            return;
        };
        let (hint, keys) = (listener.hint.clone(), listener.keys.clone());
        drop(listeners);
        hint.call(&keys.name_in(message.get_payload_bytes()).unwrap_or_default());
    }

    /// The channel is subscribed to.
    fn subscribed(&self, channel: &Channel) {
        let listeners = lock(&self.listeners);
        let Some(listener) = listeners.by_channel.get(channel) else { return };
        if listener.works.swap(true, Ordering::Relaxed) {
            return;
        }
        let hint = listener.hint.clone();
        drop(listeners);
        hint.call("");
    }

    /// The server has ended the subscription: its slot is another shard's by now.
    #[cfg(feature = "redis-cluster")]
    fn ended(&self, channel: &[u8]) {
        self.unsubscribed(channel);
        self.changed.notify_one();
    }

    /// The channel is not subscribed to.
    fn unsubscribed(&self, channel: &[u8]) {
        if let Some(listener) = lock(&self.listeners).by_channel.get(channel) {
            listener.works.store(false, Ordering::Relaxed);
        }
    }

    /// No channel is subscribed to.
    fn disconnected(&self) {
        for listener in lock(&self.listeners).by_channel.values() {
            listener.works.store(false, Ordering::Relaxed);
        }
    }

    /// Waits until no session listens or the server is back, but not for longer than this.
    async fn pause(&self, pause: Duration) {
        let unused = pin!(async {
            while !lock(&self.listeners).by_channel.is_empty() {
                self.changed.notified().await;
            }
        });
        let _ = timeout(pause, select(unused, pin!(self.recovery.recovers()))).await;
    }
}

/// The task's part in what it serves. Dropped with its runtime, it leaves the listeners to the next
/// task.
struct Serving {
    shared: Arc<HintsInner>,
    over: bool,
}

impl Serving {
    /// Returns true if no session listens any more. The next one that does starts another task.
    fn is_over(&mut self) -> bool {
        let mut listeners = lock(&self.shared.listeners);
        self.over = listeners.by_channel.is_empty();
        listeners.served = !self.over;
        self.over
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.over {
            self.shared.disconnected();
            let mut listeners = lock(&self.shared.listeners);
            listeners.served = false;
            self.shared.unserved.store(true, Ordering::Relaxed);
        }
    }
}

/// Serves the listeners until there are none, on one connection after the other.
async fn serve(mut serving: Serving) {
    let shared = serving.shared.clone();
    let mut pause = SHORTEST_PAUSE;
    while !serving.is_over() {
        let began = Instant::now();
        let end = attend(&shared).await;
        shared.disconnected();
        let Err(error) = end else { continue };
        if !is_outage(&error) {
            shared.pause(PAUSE_AFTER_REFUSAL).await;
            continue;
        }
        if began.elapsed() > LONGEST_PAUSE {
            pause = SHORTEST_PAUSE;
        }
        // Not all processes at once when a server is back.
        shared.pause(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Serves the listeners on one connection, until there are none or it breaks.
async fn attend(shared: &HintsInner) -> RedisResult<()> {
    let (subscriber, mut messages) = within(shared.server.connect()).await?;
    let reads = pin!(async {
        while let Some(told) = messages.next().await {
            match told {
                Notice::Message(message) => shared.dispatch(&message),
                #[cfg(feature = "redis-cluster")]
                Notice::Ended(channel) => shared.ended(&channel),
            }
        }
    });
    let breaks = pin!(async {
        select(reads, pin!(shared.doubted.notified())).await;
        Err(io::Error::from(io::ErrorKind::BrokenPipe).into())
    });
    let subscribes = pin!(keep_subscribed(shared, &subscriber));
    select(breaks, subscribes).await.factor_first().0
}

/// A channel of a listener.
#[derive(Clone, Copy)]
struct Wanted {
    listener: u64,
    works: bool,
}

/// What became of the last attempt to subscribe to a channel.
struct Subscription {
    /// The listener it was made for.
    listener: u64,
    subscribed: bool,
    /// When to subscribe again.
    again: Option<Instant>,
}

/// Subscribes to the channels of the listeners as they come and go, until there are none or the
/// connection breaks.
async fn keep_subscribed(shared: &HintsInner, subscriber: &Subscriber) -> RedisResult<()> {
    let mut subscriptions: HashMap<Channel, Subscription> = HashMap::new();
    loop {
        let wanted = shared.channels();
        if wanted.is_empty() {
            return Ok(());
        }
        let gone = subscriptions.extract_if(|channel, _| !wanted.contains_key(channel));
        let gone: Vec<_> = gone.filter(|(_, subscription)| subscription.subscribed).collect();
        // Messages that come nevertheless find no listener.
        join_all(gone.iter().map(|(channel, _)| subscriber.unsubscribe(channel))).await;

        let due = due(&subscriptions, &wanted, shared.server.is_sharded());
        let replies = join_all(due.iter().map(|(channel, _)| subscriber.subscribe(channel))).await;
        for ((channel, listener), reply) in due.into_iter().zip(replies) {
            let subscribed = reply.is_ok();
            let again = match reply {
                Ok(()) => shared.server.is_sharded().then_some(HEARTBEAT),
                Err(error) if !is_outage(&error) => Some(PAUSE_AFTER_REFUSAL),
                Err(_) if shared.server.is_sharded() => Some(HEARTBEAT),
                Err(error) => return Err(error),
            };
            if subscribed {
                shared.subscribed(&channel)
            } else {
                shared.unsubscribed(&channel)
            }
            let again = again.map(|pause| Instant::now() + pause);
            subscriptions.insert(channel, Subscription { listener, subscribed, again });
        }
        let _ = timeout(HEARTBEAT, shared.changed.notified()).await;
    }
}

/// Returns the channels to subscribe to now. If there are none, it is one that is subscribed to
/// already: its confirmation shows that the server is there. The shards of a cluster have to
/// confirm each channel from time to time, and at once where one has ended the subscription.
fn due(
    subscriptions: &HashMap<Channel, Subscription>,
    wanted: &HashMap<Channel, Wanted>,
    sharded: bool,
) -> Vec<(Channel, u64)> {
    let now = Instant::now();
    let is_due = |channel: &Channel, wanted: Wanted| {
        subscriptions.get(channel).is_none_or(|subscription| {
            subscription.listener != wanted.listener
                || subscription.subscribed && !wanted.works
                || subscription.again.is_some_and(|again| again <= now)
        })
    };
    let due = wanted.iter().filter(|(channel, wanted)| is_due(channel, **wanted));
    let mut due: Vec<_> = due.map(|(channel, wanted)| (channel.clone(), wanted.listener)).collect();
    if due.is_empty() && !sharded {
        let subscribed = subscriptions.iter().find(|(_, subscription)| subscription.subscribed);
        due.extend(
            subscribed.map(|(channel, subscription)| (channel.clone(), subscription.listener)),
        );
    }
    due
}

async fn within<T>(reply: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = |_| RedisError::from(io::Error::new(io::ErrorKind::TimedOut, "no reply in time"));
    timeout(REPLY_WITHIN, reply).await.map_err(late)?
}

/// Where subscriptions are made.
enum Subscriber {
    Single(PubSubSink),
    #[cfg(feature = "redis-cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

/// What a connection tells.
enum Notice {
    Message(Msg),
    /// A channel is not subscribed to any more.
    #[cfg(feature = "redis-cluster")]
    Ended(Vec<u8>),
}

/// Where messages are read.
enum Messages {
    Single(PubSubStream),
    #[cfg(feature = "redis-cluster")]
    Cluster(tokio::sync::mpsc::UnboundedReceiver<redis::PushInfo>),
}

impl Server {
    fn is_sharded(&self) -> bool {
        match self {
            Self::Single(_) => false,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => true,
        }
    }

    async fn connect(&self) -> RedisResult<(Subscriber, Messages)> {
        match self {
            Self::Single(client) => {
                let (sink, stream) = client.get_async_pubsub().await?.split();
                Ok((Subscriber::Single(sink), Messages::Single(stream)))
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(client) => {
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
                let config = redis::cluster::ClusterConfig::new()
                    .set_connection_timeout(REPLY_WITHIN)
                    .set_response_timeout(REPLY_WITHIN)
                    .set_push_sender(sender);
                let connection = client.get_async_connection_with_config(config).await?;
                Ok((Subscriber::Cluster(connection), Messages::Cluster(receiver)))
            }
        }
    }
}

impl Subscriber {
    async fn subscribe(&self, channel: &Channel) -> RedisResult<()> {
        match self {
            Self::Single(sink) => within(sink.clone().subscribe(&**channel)).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => within(connection.clone().ssubscribe(&**channel)).await,
        }
    }

    async fn unsubscribe(&self, channel: &Channel) -> RedisResult<()> {
        match self {
            Self::Single(sink) => within(sink.clone().unsubscribe(&**channel)).await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => within(connection.clone().sunsubscribe(&**channel)).await,
        }
    }
}

impl Messages {
    /// Returns nothing once a connection has ended.
    async fn next(&mut self) -> Option<Notice> {
        match self {
            Self::Single(stream) => stream.next().await.map(Notice::Message),
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(pushes) => loop {
                let push = pushes.recv().await?;
                match (&push.kind, push.data.first()) {
                    (redis::PushKind::Disconnection, _) => return None,
                    // No one listens for the reply to its own SUNSUBSCRIBE.
                    (redis::PushKind::SUnsubscribe, Some(redis::Value::BulkString(channel))) => {
                        return Some(Notice::Ended(channel.clone()));
                    }
                    _ => {}
                }
                if let Some(message) = Msg::from_push_info(push) {
                    return Some(Notice::Message(message));
                }
            },
        }
    }
}
