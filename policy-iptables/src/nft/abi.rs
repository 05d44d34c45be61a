//! Numbers of `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`, and of `libnftnl`'s userdata.

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u8 = 10;

/// Message type inside netfilter's number space.
const fn message(number: u16) -> u16 {
    ((SUBSYSTEM as u16) << 8) | number
}

pub(super) const NEW_TABLE: u16 = message(0);
pub(super) const GET_TABLE: u16 = message(1);
pub(super) const DEL_TABLE: u16 = message(2);
pub(super) const NEW_CHAIN: u16 = message(3);
pub(super) const GET_CHAIN: u16 = message(4);
pub(super) const DEL_CHAIN: u16 = message(5);
pub(super) const NEW_RULE: u16 = message(6);
pub(super) const GET_RULE: u16 = message(7);
pub(super) const DEL_RULE: u16 = message(8);
pub(super) const NEW_SET: u16 = message(9);
pub(super) const GET_SET: u16 = message(10);
pub(super) const DEL_SET: u16 = message(11);
pub(super) const NEW_ELEMENT: u16 = message(12);
pub(super) const GET_ELEMENT: u16 = message(13);
pub(super) const DEL_ELEMENT: u16 = message(14);
pub(super) const GET_GENERATION: u16 = message(16);

/// `struct nfgenmsg` for family `inet`: family, version 0, resource id 0.
pub(super) const INET: [u8; 4] = [1, 0, 0, 0];
pub(super) const UNSPEC: [u8; 4] = [0, 0, 0, 0];

/// Attributes of a generation answer.
pub(super) const GEN_ID: u16 = 1;

/// Attributes and flags of tables.
pub(super) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const OWNER: u16 = 7;
    /// No other socket may change it, and a flush of everything passes it by.
    pub(crate) const FLAG_OWNER: u32 = 2;
    /// It outlives the socket of its owner.
    pub(crate) const FLAG_PERSIST: u32 = 4;
}

/// Attributes of chains and hooks.
pub(super) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const USERDATA: u16 = 12;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

/// Attributes of rules.
pub(super) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const POSITION: u16 = 6;
    pub(crate) const USERDATA: u16 = 7;
}

/// Attributes and flags of sets.
pub(super) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const COUNT: u16 = 20;
    pub(crate) const FLAG_INTERVAL: u32 = 4;
    pub(crate) const FLAG_MAP: u32 = 8;
    /// `NFT_DATA_VERDICT`.
    pub(crate) const DATA_VERDICT: u32 = 0xffff_ff00;
}

/// Attributes and flags of set elements.
pub(super) mod element {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const FLAG_INTERVAL_END: u32 = 1;
    pub(crate) const FLAG_CATCH_ALL: u32 = 2;
}

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEMENT: u16 = 1;

/// Attributes of data and verdicts.
pub(super) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
    pub(crate) const DROP: u32 = 0;
    pub(crate) const ACCEPT: u32 = 1;
    /// -3, -4, -5 as the kernel numbers its own verdicts.
    pub(crate) const JUMP: u32 = u32::MAX - 2;
    pub(crate) const GOTO: u32 = u32::MAX - 3;
    pub(crate) const RETURN: u32 = u32::MAX - 4;
}

/// Registers: number 1 is 16 octets wide and begins where number 8 does, each of those being 4 octets.
pub(super) mod register {
    pub(crate) const VERDICT: u32 = 0;
    pub(crate) const FIRST: u32 = 1;
    pub(crate) const SECOND: u32 = 2;
    pub(crate) const WORDS: u32 = 8;
}

/// Userdata is type, length, octets; text ends with a zero.
pub(super) mod userdata {
    pub(crate) const RULE_COMMENT: u8 = 0;
    pub(crate) const CHAIN_COMMENT: u8 = 0;
    pub(crate) const SET_KEY_BYTE_ORDER: u8 = 0;
    pub(crate) const SET_COMMENT: u8 = 7;
    /// Ours: `nft` skips types it does not know.
    pub(crate) const CONTENT_KEY: u8 = 0x6d;
    /// As `nft` numbers byte orders.
    pub(crate) const HOST_ORDER: u32 = 1;
    pub(crate) const NETWORK_ORDER: u32 = 2;
}

/// Data types as `nft` numbers them; only its listing reads them.
pub(super) mod datatype {
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const SERVICE: u32 = 13;
    pub(crate) const INTERFACE: u32 = 20;
    /// Bits by which a further type of a concatenation is shifted in.
    pub(crate) const SHIFT: u32 = 6;
}
