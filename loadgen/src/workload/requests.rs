//! The bytes of requests: encoded once through `engine::proto`, then copied with a new xid and node number.
//!
//! A request costs one copy of its template and 16 patched bytes; nothing is allocated per request.

use engine::proto::{
    Acl, CreateRequest, Id, Op, PathVersion, PathWatch, RequestHeader, SetDataRequest, perm, put_frame,
};
use std::borrow::Cow;

/// Digits of a node's number in its name. With the letter before them names have 13 bytes.
const DIGITS: usize = 12;
/// Offset of the xid in a frame: behind the length.
const XID_AT: usize = 4;
/// Offset of the first field's bytes: length, xid, opcode, length of the path.
const PATH_AT: usize = 16;

/// Where a run keeps its nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The node above all others, without a slash at its end.
    pub base: String,
}

impl Layout {
    /// The node that reads and sets touch.
    pub fn key(&self, n: u64) -> String {
        format!("{}/k{n:012}", self.base)
    }
    /// A node that the operation `create` made.
    pub fn created(&self, n: u64) -> String {
        format!("{}/c{n:012}", self.base)
    }
    /// The directory that `children` lists.
    pub fn dir(&self) -> String {
        format!("{}/dir", self.base)
    }
    /// A child of that directory.
    pub fn dir_child(&self, n: u64) -> String {
        format!("{}/dir/d{n:012}", self.base)
    }
}

/// The access control list of the nodes that are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum AclChoice {
    /// Everyone may do everything.
    Open,
    /// Only who is authenticated as the creator (needs --auth).
    Creator,
}

impl AclChoice {
    fn acl(self) -> Vec<Acl> {
        match self {
            AclChoice::Open => vec![Acl::open()],
            AclChoice::Creator => vec![Acl { perms: perm::ALL, id: Id::new("auth", "") }],
        }
    }
}

/// An encoded frame in which xid and, maybe, a node's number are still to be filled in.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    digits_at: Option<usize>,
}

impl Template {
    fn new(op: Op, path: &str, numbered: bool, body: impl FnOnce(&mut Vec<u8>)) -> Template {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| {
            RequestHeader { xid: 0, op: op.wire() }.encode(out);
            body(out);
        });
        let digits_at = numbered.then(|| PATH_AT + path.len() - DIGITS);
        Template { bytes: bytes.into_boxed_slice(), digits_at }
    }

    /// Appends the frame. `n` is the node's number, below 10^12 (higher digits are lost).
    #[inline]
    pub fn put(&self, xid: i32, n: u64, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[at..];
        frame[XID_AT..XID_AT + 4].copy_from_slice(&xid.to_be_bytes());
        if let Some(d) = self.digits_at {
            put_digits(&mut frame[d..d + DIGITS], n);
        }
    }

    /// Bytes of the frame.
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes the decimal digits of `n`, zeros in front, to all of `out`.
#[inline]
fn put_digits(out: &mut [u8], mut n: u64) {
    for pair in out.rchunks_exact_mut(2) {
        let two = (n % 100) as u8;
        n /= 100;
        pair[0] = b'0' + two / 10;
        pair[1] = b'0' + two % 10;
    }
}

/// One template per kind of request that a run can send.
#[derive(Clone, Debug)]
pub struct Requests {
    pub get: Template,
    pub exists: Template,
    pub children: Template,
    pub set: Template,
    pub watch: Template,
    pub create_key: Template,
    pub delete_key: Template,
    pub create_new: Template,
    pub delete_new: Template,
    pub create_dir_child: Template,
    pub delete_dir_child: Template,
    /// sync of the base node: what the connection's server must have seen before it answers.
    pub sync: Template,
}

impl Requests {
    /// Templates for nodes under `layout` that hold `value`.
    pub fn new(layout: &Layout, value: &[u8], acl: AclChoice) -> Requests {
        let (key, new, child) = (layout.key(0), layout.created(0), layout.dir_child(0));
        let read = |op, path: &str, numbered, watch| {
            Template::new(op, path, numbered, |out| {
                PathWatch { path: Cow::Borrowed(path), watch }.encode(out)
            })
        };
        let create = |path: &str, data: &[u8]| {
            let request = CreateRequest {
                path: Cow::Borrowed(path),
                data: Some(data),
                acl: acl.acl(),
                flags: 0,
                ttl: None,
            };
            Template::new(Op::Create, path, true, |out| request.encode(out))
        };
        let delete = |path: &str| {
            let request = PathVersion { path: Cow::Borrowed(path), version: -1 };
            Template::new(Op::Delete, path, true, |out| request.encode(out))
        };
        let set = SetDataRequest { path: Cow::Borrowed(&key), data: Some(value), version: -1 };
        Requests {
            get: read(Op::GetData, &key, true, false),
            exists: read(Op::Exists, &key, true, false),
            children: read(Op::GetChildren, &layout.dir(), false, false),
            set: Template::new(Op::SetData, &key, true, |out| set.encode(out)),
            watch: read(Op::GetData, &key, true, true),
            create_key: create(&key, value),
            delete_key: delete(&key),
            create_new: create(&new, value),
            delete_new: delete(&new),
            create_dir_child: create(&child, b""),
            delete_dir_child: delete(&child),
            sync: Template::new(Op::Sync, &layout.base, false, |out| {
                engine::proto::Encode::put_string(out, &layout.base);
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::proto::Decoder;

    fn layout() -> Layout {
        Layout { base: "/loadgen-1".to_owned() }
    }

    /// The header and body of the only frame in `bytes`.
    fn open(bytes: &[u8]) -> (RequestHeader, Decoder<'_>) {
        let mut d = Decoder::new(bytes);
        assert_eq!(d.int().unwrap() as usize, bytes.len() - 4);
        (RequestHeader::decode(&mut d).unwrap(), d)
    }

    #[test]
    fn a_patched_template_decodes_to_the_request_it_stands_for() {
        let r = Requests::new(&layout(), b"value", AclChoice::Open);
        for (template, op, watch) in
            [(&r.get, Op::GetData, false), (&r.exists, Op::Exists, false), (&r.watch, Op::GetData, true)]
        {
            let mut out = Vec::new();
            template.put(77, 123_456_789_012, &mut out);
            let (header, mut d) = open(&out);
            assert_eq!(header, RequestHeader { xid: 77, op: op.wire() });
            let path = Cow::Borrowed("/loadgen-1/k123456789012");
            assert_eq!(PathWatch::decode(&mut d).unwrap(), PathWatch { path, watch });
            assert!(d.is_empty());
        }
    }

    #[test]
    fn writes_carry_value_and_acl() {
        let r = Requests::new(&layout(), b"value", AclChoice::Creator);
        let mut out = Vec::new();
        r.create_new.put(i32::MAX, 7, &mut out);
        let (header, mut d) = open(&out);
        assert_eq!(header, RequestHeader { xid: i32::MAX, op: 1 });
        let create = CreateRequest::decode(Op::Create, &mut d).unwrap();
        assert_eq!(create.path, layout().created(7));
        assert_eq!(create.data, Some(&b"value"[..]));
        assert_eq!(create.acl, [Acl { perms: perm::ALL, id: Id::new("auth", "") }]);
        assert_eq!(create.flags, 0);

        out.clear();
        r.set.put(1, 42, &mut out);
        let (_, mut d) = open(&out);
        let set = SetDataRequest::decode(&mut d).unwrap();
        assert_eq!((set.path, set.data, set.version), (layout().key(42).into(), Some(&b"value"[..]), -1));
    }

    #[test]
    fn frames_stand_back_to_back() {
        let r = Requests::new(&layout(), b"", AclChoice::Open);
        let mut out = Vec::new();
        r.children.put(1, 0, &mut out);
        r.delete_new.put(2, 3, &mut out);
        let (first, second) = out.split_at(r.children.frame_bytes());
        assert_eq!(open(first).0, RequestHeader { xid: 1, op: Op::GetChildren.wire() });
        let (header, mut d) = open(second);
        assert_eq!(header, RequestHeader { xid: 2, op: Op::Delete.wire() });
        assert_eq!(PathVersion::decode(&mut d).unwrap().path, layout().created(3));
    }
}
