use pay402_core::{Digest, Requirements, Scheme};
use serde_json::Map;

use super::*;

const USDC: &str = "0x036cbd53842c5426634e7929541ec2318f3dcf7e";
const PAYEE: &str = "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc";

fn quote(amount: u64) -> Quote {
    let network = NetworkId::eip155(84532);
    let offer = Requirements {
        scheme: Scheme::EXACT,
        network: network.clone(),
        amount: amount.into(),
        asset: USDC.into(),
        pay_to: PAYEE.into(),
        max_timeout_seconds: 60,
        extra: Map::new(),
        other: Map::new(),
    };
    Quote {
        scheme: Scheme::EXACT,
        asset: AssetId::new(network, USDC),
        symbol: "USDC".into(),
        decimals: 6,
        amount: amount.into(),
        pay_to: PAYEE.into(),
        is_dollar: true,
        offer,
    }
}

fn intent(origin: &str) -> Intent {
    Intent { id: Digest([1; 32]), origin: origin.into(), resource: format!("{origin}/a") }
}

fn rule_of(policy: &OwnerPolicy, quote: &Quote, origin: &str, spent: Spent) -> &'static str {
    match policy.judge(quote, &intent(origin), &spent) {
        Verdict::Allow(limits) => {
            assert!(limits.total.is_some(), "an allowance without a total is no budget");
            "allow"
        }
        Verdict::Ask(denied) | Verdict::Deny(denied) => denied.rule,
    }
}

fn spent(posted: u64, reserved: u64) -> Spent {
    Spent { posted: posted.into(), reserved: reserved.into() }
}

#[test]
fn the_default_is_a_dollar_each_and_ten_in_total() {
    let policy = OwnerPolicy::new();
    let site = "https://api.example.com";
    let rule = |amount, used| rule_of(&policy, &quote(amount), site, used);
    assert_eq!(rule(1_000_000, spent(0, 0)), "allow");
    assert_eq!(rule(1_000_001, spent(0, 0)), "max_per_payment");
    assert_eq!(rule(1_000_000, spent(4_000_000, 5_000_000)), "allow");
    assert_eq!(rule(1_000_000, spent(4_000_000, 5_000_001)), "total_budget");
    assert_eq!(rule(1, spent(10_000_000, 0)), "total_budget");
    assert_eq!(rule(0, spent(0, 0)), "zero_amount");
    let overflow = Spent { posted: Amount::MAX, reserved: Amount::MAX };
    assert_eq!(rule(1, overflow), "total_budget");
}

#[test]
fn a_denial_states_the_figures() {
    let policy = OwnerPolicy::new();
    let verdict = policy.judge(&quote(2_500_000), &intent("https://a.example"), &Spent::default());
    let Verdict::Deny(denied) = verdict else { panic!("{verdict:?}") };
    assert_eq!((denied.asked, denied.limit), (2_500_000.into(), Some(1_000_000.into())));
    assert!(denied.message.contains("2.5 USDC") && denied.message.contains("limit of 1 USDC"));
}

#[test]
fn eighteen_decimals_are_not_six() {
    let policy = OwnerPolicy::new();
    let mut dai = quote(0);
    dai.decimals = 18;
    dai.amount = Amount::parse("1000000000000000000").unwrap();
    assert_eq!(rule_of(&policy, &dai, "https://a.example", Spent::default()), "allow");
    dai.decimals = 6;
    assert_eq!(rule_of(&policy, &dai, "https://a.example", Spent::default()), "max_per_payment");
}

#[test]
fn an_asset_that_is_no_dollar_needs_its_own_rule() {
    let mut euro = quote(10);
    euro.is_dollar = false;
    let policy = OwnerPolicy::new();
    assert_eq!(
        rule_of(&policy, &euro, "https://a.example", Spent::default()),
        "asset_without_rule"
    );
    let rule = AssetRule { per_payment: 10.into(), total: 15.into() };
    let policy = policy.asset_rule(euro.asset.clone(), rule);
    assert_eq!(rule_of(&policy, &euro, "https://a.example", Spent::default()), "allow");
    assert_eq!(rule_of(&policy, &euro, "https://a.example", spent(6, 0)), "total_budget");
    euro.amount = 11.into();
    assert_eq!(rule_of(&policy, &euro, "https://a.example", Spent::default()), "max_per_payment");
    // The same address on another network is another asset.
    euro.amount = 10.into();
    euro.asset.network = NetworkId::eip155(1);
    assert_eq!(
        rule_of(&policy, &euro, "https://a.example", Spent::default()),
        "asset_without_rule"
    );
}

#[test]
fn scope_rules_deny_what_is_not_listed() {
    let site = "https://api.example.com";
    let none = Spent::default();
    let policy = OwnerPolicy::new().only_networks([NetworkId::eip155(8453)]);
    assert_eq!(rule_of(&policy, &quote(1), site, none), "allowed_networks");
    let policy = OwnerPolicy::new().only_assets([]);
    assert_eq!(rule_of(&policy, &quote(1), site, none), "allowed_assets");
    let policy = OwnerPolicy::new().only_payees(["0x0000000000000000000000000000000000000001"]);
    assert_eq!(rule_of(&policy, &quote(1), site, none), "allowed_payees");
    let policy = OwnerPolicy::new().only_payees([PAYEE.to_uppercase().replace("0X", "0x")]);
    assert_eq!(rule_of(&policy, &quote(1), site, none), "allow");
}

#[test]
fn hosts_match_whole_names() {
    let policy = OwnerPolicy::new().only_hosts(["api.example.com", "*.b.example", "127.0.0.1:81"]);
    let cases = [
        ("https://api.example.com", "allow"),
        ("https://api.example.com:8443", "allow"),
        ("https://x.b.example", "allow"),
        ("http://127.0.0.1:81", "allow"),
        ("http://127.0.0.1:82", "allowed_hosts"),
        ("https://b.example", "allowed_hosts"),
        ("https://xb.example", "allowed_hosts"),
        ("https://evil-api.example.com", "allowed_hosts"),
        ("https://api.example.com.evil.example", "allowed_hosts"),
    ];
    for (origin, expected) in cases {
        assert_eq!(rule_of(&policy, &quote(1), origin, Spent::default()), expected, "{origin}");
    }
}

#[test]
fn plain_http_is_for_this_machine_only() {
    let policy = OwnerPolicy::new();
    for (origin, expected) in [
        ("http://127.0.0.1:4021", "allow"),
        ("http://localhost:4021", "allow"),
        ("http://[::1]:4021", "allow"),
        ("http://api.example.com", "plain_http"),
        ("http://127.0.0.1.example.com", "plain_http"),
        ("http://shop.localhost:4021", "plain_http"),
        ("null", "plain_http"),
    ] {
        assert_eq!(rule_of(&policy, &quote(1), origin, Spent::default()), expected, "{origin}");
    }
    let policy = policy.plain_http(PlainHttp::Anywhere);
    let origin = "http://api.example.com";
    assert_eq!(rule_of(&policy, &quote(1), origin, Spent::default()), "allow");
}

#[test]
fn lifetimes_are_clamped() {
    assert_eq!(OwnerPolicy::new().lifetime_s_max(), LIFETIME_S_DEFAULT);
    assert_eq!(OwnerPolicy::new().lifetime_s(u64::MAX).lifetime_s_max(), LIFETIME_S_CEILING);
    assert_eq!(OwnerPolicy::new().lifetime_s(0).lifetime_s_max(), 1);
    let mut instant = quote(1);
    instant.offer.max_timeout_seconds = 0;
    let rule = rule_of(&OwnerPolicy::new(), &instant, "https://a.example", Spent::default());
    assert_eq!(rule, "no_lifetime");
}
