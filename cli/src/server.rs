//! Which server, and which buckets on it.

use std::sync::Arc;

use tower_throttle::store::BucketKey;

use crate::{failure::Failure, nodes::Nodes, words::place};

/// Options of every command that asks a server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Server {
    /// Redis or Valkey: redis://[user:password@]host[:port][/database], rediss:// for TLS; of a
    /// cluster, any node. A password is better in the variable, where other users of the machine
    /// do not see it
    #[arg(
        long = "redis",
        value_name = "URL",
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    url: String,
    /// What the keys begin with: that of `RedisStore::prefix`
    #[arg(long, default_value = "throttle")]
    prefix: String,
}

/// A bucket on a server.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bucket {
    /// The name of the bucket
    bucket: String,
    /// Its partition, where buckets of several partitions have this name
    #[arg(long)]
    partition: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Server {
    /// Connects to the server, and to the others of its cluster, or says why not.
    pub(crate) async fn nodes(&self) -> Result<Nodes, Failure> {
        Nodes::connect(&self.url, &self.prefix).await
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where the server is, without what only its users may know.
    pub(crate) fn place(&self) -> &str {
        place(&self.url)
    }
}

impl Bucket {
    pub(crate) fn name(&self) -> &str {
        &self.bucket
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The key of the bucket, which has a state on the server.
    pub(crate) async fn find(&self, nodes: &mut Nodes) -> Result<Arc<BucketKey>, Failure> {
        let mut keys = nodes.find(&self.bucket).await?;
        if let Some(partition) = &self.partition {
            keys.retain(|key| key.partition() == partition);
        }
        match &keys[..] {
            [only] => Ok(only.clone()),
            [] => Err(self.unknown()),
            _ => {
                let partitions: Vec<_> = keys.iter().map(|key| key.partition()).collect();
                Err(Failure::Usage(format!(
                    "buckets of the partitions {} have this name: say which with --partition",
                    partitions.join(", ")
                )))
            }
        }
    }

    pub(crate) fn unknown(&self) -> Failure {
        let Self { bucket, partition, server: Server { prefix, .. } } = self;
        let within = partition.as_ref().map(|name| format!(" in partition `{name}`"));
        Failure::Unknown(format!(
            "no bucket `{bucket}`{} below the prefix `{prefix}`: none has used it, or not for long",
            within.unwrap_or_default()
        ))
    }
}
