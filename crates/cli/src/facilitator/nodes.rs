//! The nodes of a network in the configuration file: `rpc`, or `[[network.node]]`.

use pay402_core::error::Misconfigured;
use serde::Deserialize;

use super::config::Secret;

/// Longest name of a node, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 32;

/// One node, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Urls {
    One(Secret),
    Several(Vec<Secret>),
}

/// `[[network.node]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeSection {
    /// What it is called in metrics, logs and errors.
    name: String,
    /// As `rpc` of the network.
    rpc: Secret,
}

/// A node of a network.
pub(crate) struct Node<'a> {
    /// What it is called: by its place where it was given no name.
    pub(crate) name: String,
    /// Where its URL stands in the configuration.
    pub(crate) setting: String,
    /// Its URL; not for printing.
    pub(crate) url: &'a str,
}

/// All nodes of a network, in their order.
pub(crate) fn all<'a>(
    setting: &str,
    rpc: Option<&'a Urls>,
    sections: &'a [NodeSection],
) -> Vec<Node<'a>> {
    let node = |name: String, place: String, url: &'a Secret| Node {
        name,
        setting: format!("{setting}.{place}"),
        url: &url.0,
    };
    match rpc {
        Some(Urls::One(url)) => vec![node("0".into(), "rpc".into(), url)],
        Some(Urls::Several(urls)) => {
            let urls = urls.iter().enumerate();
            urls.map(|(index, url)| node(index.to_string(), format!("rpc[{index}]"), url)).collect()
        }
        None => {
            let sections = sections.iter().enumerate();
            sections
                .map(|(index, NodeSection { name, rpc })| {
                    node(name.clone(), format!("node[{index}].rpc"), rpc)
                })
                .collect()
        }
    }
}

/// The URLs of all nodes, each with where it stands in the configuration.
pub(crate) fn urls<'a>(
    setting: &str,
    rpc: Option<&'a mut Urls>,
    sections: &'a mut [NodeSection],
) -> Vec<(String, &'a mut Secret)> {
    let places: Vec<String> =
        all(setting, rpc.as_deref(), sections).into_iter().map(|node| node.setting).collect();
    let urls: Vec<&mut Secret> = match rpc {
        Some(Urls::One(url)) => vec![url],
        Some(Urls::Several(urls)) => urls.iter_mut().collect(),
        None => sections.iter_mut().map(|section| &mut section.rpc).collect(),
    };
    places.into_iter().zip(urls).collect()
}

/// Checks that nodes are named in one way, and well.
pub(crate) fn check(
    setting: &str,
    rpc: Option<&Urls>,
    sections: &[NodeSection],
) -> Result<(), Misconfigured> {
    let problem = match (rpc, sections.is_empty()) {
        (None, true) => Some("is missing; write rpc = \"https://…\""),
        (Some(_), false) => Some("and [[network.node]] are two ways to say it; keep one"),
        (Some(_), true) | (None, false) => None,
    };
    if let Some(problem) = problem {
        return Err(Misconfigured::new(format!("{setting}.rpc"), problem));
    }
    for (index, NodeSection { name, .. }) in sections.iter().enumerate() {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
            let problem =
                format!("must be letters, digits, -, _ and ., at most {NAME_BYTES_MAX} of them");
            return Err(Misconfigured::new(format!("{setting}.node[{index}].name"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facilitator::config::parse;

    const FILE: &str = r#"
        listen = "127.0.0.1:4020"
        database = "facilitator.db"
        [[network]]
        id = "base-sepolia"
        signer = { env = "FACILITATOR_PRIVATE_KEY" }
        NODES
    "#;

    #[test]
    fn a_network_has_one_node_or_several() {
        let one = "rpc = \"http://127.0.0.1:8545\"";
        let nodes = |lines: &str| {
            let config = parse(&FILE.replace("NODES", lines))?;
            let nodes = config.networks[0].nodes("network[0]");
            let told = |node: Node<'_>| format!("{} {} {}", node.name, node.setting, node.url);
            Ok::<_, Misconfigured>(nodes.into_iter().map(told).collect::<Vec<_>>())
        };
        assert_eq!(nodes(one).unwrap(), ["0 network[0].rpc http://127.0.0.1:8545"]);
        let several = "rpc = [\"http://a\", \"http://${CARGO_PKG_NAME}\"]";
        let expected = ["0 network[0].rpc[0] http://a", "1 network[0].rpc[1] http://pay402"];
        assert_eq!(nodes(several).unwrap(), expected);
        let node = |name: &str| format!("node = [{{ name = {name:?}, rpc = \"http://b\" }}]");
        assert_eq!(nodes(&node("own")).unwrap(), ["own network[0].node[0].rpc http://b"]);
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (lines, key) in [
            (String::new(), "network[0].rpc"),
            (format!("{one}\n{}", node("own")), "network[0].rpc"),
            (node(""), "network[0].node[0].name"),
            (node("a b"), "network[0].node[0].name"),
            (node(&long), "network[0].node[0].name"),
            ("rpc = [\"http://${PAY402_NO_SUCH_VARIABLE}\"]".into(), "network[0].rpc[0]"),
        ] {
            assert_eq!(nodes(&lines).unwrap_err().key, key, "{lines}");
        }
        assert!(nodes("rpc = []").unwrap().is_empty(), "the pool refuses it");
    }
}
