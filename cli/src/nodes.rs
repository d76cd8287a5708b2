//! The servers that hold the buckets: the one that a URL names, or all masters of its cluster.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tower_throttle::{
    redis::{
        self, AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
        RedisResult, Value,
    },
    store::{BucketDetail, BucketKey, BucketView, RedisStore, RedisView, StoreError},
};

use crate::{failure::Failure, words::place};

/// A node that takes longer to tell of its cluster is passed over.
const TELL_WITHIN: Duration = Duration::from_secs(1);

/// What holds the buckets of a prefix.
pub(crate) struct Nodes {
    prefix: String,
    /// As the URL has it: the way back where no node is left.
    seed: ConnectionInfo,
    nodes: Vec<Node>,
    /// The node that a bucket was found on, by the bucket's id.
    places: HashMap<u64, usize>,
    is_cluster: bool,
}

struct Node {
    info: ConnectionInfo,
    store: RedisStore,
    view: RedisView,
}

impl Node {
    fn new(info: ConnectionInfo, store: RedisStore) -> Self {
        Self { info, view: store.view(), store }
    }
}

impl Nodes {
    /// Connects to a server, and finds the others of its cluster.
    pub(crate) async fn connect(url: &str, prefix: &str) -> Result<Self, Failure> {
        let store = RedisStore::connect(url).await?.prefix(prefix);
        let seed = url.into_connection_info().map_err(Failure::other)?;
        let nodes = vec![Node::new(seed.clone(), store)];
        let prefix = prefix.to_owned();
        let mut nodes = Self { prefix, seed, nodes, places: HashMap::new(), is_cluster: false };
        nodes.follow().await;
        Ok(nodes)
    }

    /// Finds the buckets that have a state, by partition and name, on the masters of the present.
    pub(crate) async fn buckets(&mut self) -> Result<Vec<Arc<BucketKey>>, StoreError> {
        if self.is_cluster {
            self.follow().await;
        }
        let searches = self.nodes.iter().map(|node| node.view.buckets());
        let found = try_join_all(searches).await?;
        Ok(self.place(found))
    }

    /// Finds the buckets of this name, which may be in several partitions.
    pub(crate) async fn find(&mut self, name: &str) -> Result<Vec<Arc<BucketKey>>, StoreError> {
        let searches = self.nodes.iter().map(|node| node.view.find(name));
        let found = try_join_all(searches).await?;
        Ok(self.place(found))
    }

    /// Tells how buckets that were found stand, in the order of the keys.
    pub(crate) async fn look(
        &mut self,
        keys: &[Arc<BucketKey>],
    ) -> Result<Vec<Option<BucketView>>, StoreError> {
        let mut of_nodes: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (index, key) in keys.iter().enumerate() {
            of_nodes[self.place_of(key)].push(index);
        }
        let looks = self.nodes.iter_mut().zip(&of_nodes).map(async |(node, indexes)| {
            let keys: Vec<_> = indexes.iter().map(|&index| keys[index].clone()).collect();
            node.view.look(&keys).await
        });
        let looks = try_join_all(looks).await?;
        let mut views = vec![None; keys.len()];
        for (index, view) in of_nodes.iter().flatten().zip(looks.into_iter().flatten()) {
            views[*index] = view;
        }
        Ok(views)
    }

    /// Tells how one bucket that was found stands, with its queue and its sessions.
    pub(crate) async fn look_closely(
        &mut self,
        key: &Arc<BucketKey>,
    ) -> Result<Option<BucketDetail>, StoreError> {
        let place = self.place_of(key);
        self.nodes[place].view.look_closely(key).await
    }

    /// The store that holds a bucket that was found.
    pub(crate) fn store_of(&self, key: &BucketKey) -> &RedisStore {
        &self.nodes[self.place_of(key)].store
    }

    fn place_of(&self, key: &BucketKey) -> usize {
        // There is always one node, and a bucket that moved is found again by the next search.
        let place = self.places.get(&key.id()).copied().unwrap_or_default();
        if place < self.nodes.len() { place } else { 0 }
    }

    /// Notes which node holds which of these buckets. Returns all, in the order of a search.
    fn place(&mut self, found: Vec<Vec<Arc<BucketKey>>>) -> Vec<Arc<BucketKey>> {
        let of_node = |(place, keys): (usize, &Vec<Arc<BucketKey>>)| {
            keys.iter().map(move |key| (key.id(), place)).collect::<Vec<_>>()
        };
        self.places = found.iter().enumerate().flat_map(of_node).collect();
        let mut all: Vec<_> = found.into_iter().flatten().collect();
        let order = |key: &BucketKey| (key.partition().to_owned(), key.name().to_owned());
        all.sort_by_cached_key(|key| order(key));
        // While slots move, two nodes may have a bucket.
        all.dedup();
        all
    }

    /// Finds the masters of the cluster, if it is one and some node tells of it.
    async fn follow(&mut self) {
        let known = self.nodes.iter().map(|node| &node.info).chain([&self.seed]);
        let mut masters = Vec::new();
        for info in known {
            masters = masters_told_by(info).await.unwrap_or_default();
            if !masters.is_empty() {
                break;
            }
        }
        if masters.is_empty() {
            return;
        }
        self.is_cluster = true;
        let mut known = std::mem::take(&mut self.nodes);
        let nodes: Vec<_> = masters
            .into_iter()
            .filter_map(|address| {
                let place = known.iter().position(|node| *node.info.addr() == address);
                place.map(|place| known.swap_remove(place)).or_else(|| self.new_node(address))
            })
            .collect();
        self.nodes = if nodes.is_empty() { known } else { nodes };
    }

    /// A node that connects when it is first asked.
    fn new_node(&self, address: ConnectionAddr) -> Option<Node> {
        let info = self.seed.clone().set_addr(address);
        let client = Client::open(info.clone()).ok()?;
        Some(Node::new(info, RedisStore::from_client(client).prefix(&*self.prefix)))
    }
}

/// A store on the server that a URL names, or on the whole cluster that it is part of.
pub(crate) async fn shared_store(url: &str, prefix: &str) -> Result<RedisStore, Failure> {
    let store = RedisStore::connect(url).await?;
    let named = url.into_connection_info().map_err(Failure::other)?;
    let masters = match masters_told_by(&named).await {
        // It says that it is none, or may not say it.
        Err(error) if !error.is_io_error() && !error.is_timeout() => {
            return Ok(store.prefix(prefix));
        }
        Err(error) => {
            let place = place(url);
            return Err(Failure::Unavailable(format!(
                "{place} does not tell its cluster: {error}"
            )));
        }
        Ok(masters) => masters,
    };
    let masters = masters.into_iter().map(|address| named.clone().set_addr(address));
    let nodes = [named.clone()].into_iter().chain(masters);
    Ok(RedisStore::connect_cluster(nodes).await?.prefix(prefix))
}

/// The addresses of a cluster's masters, as a node tells them; none if it is no cluster.
async fn masters_told_by(info: &ConnectionInfo) -> RedisResult<Vec<ConnectionAddr>> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TELL_WITHIN))
        .set_response_timeout(Some(TELL_WITHIN));
    let client = Client::open(info.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let slots: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let mut masters: Vec<_> = slots.iter().filter_map(|slots| master(slots, info)).collect();
    masters.sort_by_key(ToString::to_string);
    masters.dedup();
    Ok(masters)
}

/// The master of a range: `[first, last, [host, port, ..], replica..]`.
fn master(range: &Value, teller: &ConnectionInfo) -> Option<ConnectionAddr> {
    let Value::Array(range) = range else { return None };
    let Some(Value::Array(master)) = range.get(2) else { return None };
    let [host, port, ..] = &master[..] else { return None };
    let host: Option<String> = redis::from_redis_value_ref(host).ok()?;
    let port: u16 = redis::from_redis_value_ref(port).ok()?;
    let host = host.filter(|host| !matches!(host.as_str(), "" | "?"));
    Some(match teller.addr().clone() {
        ConnectionAddr::TcpTls { host: told_by, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.unwrap_or(told_by), port, insecure, tls_params }
        }
        ConnectionAddr::Tcp(told_by, _) => ConnectionAddr::Tcp(host.unwrap_or(told_by), port),
        _ => ConnectionAddr::Tcp(host?, port),
    })
}
