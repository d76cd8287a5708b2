//! A cluster of servers on this machine, each server a shard.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::RedisServer;

const SLOTS: usize = 16_384;
/// The longest that servers of a healthy machine take to find each other.
const FORM_WITHIN: Duration = Duration::from_secs(20);

impl RedisServer {
    /// Starts a cluster of so many shards, of equally many slots each, in their order.
    pub fn start_cluster(shards: usize) -> Vec<Self> {
        let start =
            |_| Self::start_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
        let servers: Vec<_> = (0..shards).map(start).collect();
        for (shard, server) in servers.iter().enumerate() {
            let slots = shard * SLOTS / shards..(shard + 1) * SLOTS / shards;
            let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
            let mut line = vec!["CLUSTER", "ADDSLOTS"];
            line.extend(slots.iter().map(String::as_str));
            server.command::<()>(&line);
            let epoch = (shard + 1).to_string();
            server.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            server.command::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
        }
        for server in &servers[1..] {
            server.command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &servers[0].port().to_string()]);
        }
        let is_formed = |server: &Self| {
            let told: String = server.command(&["CLUSTER", "INFO"]);
            // Until it says so, a server takes no writes.
            told.contains("cluster_state:ok") && told.contains(&format!("cluster_slots_ok:{SLOTS}"))
        };
        let deadline = Instant::now() + FORM_WITHIN;
        for server in &servers {
            while !is_formed(server) {
                assert!(Instant::now() < deadline, "the servers form no cluster");
                thread::sleep(Duration::from_millis(20));
            }
        }
        servers
    }
}
