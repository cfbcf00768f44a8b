//! Bodies of replies to writes, taken from the tree right after the transaction.

use crate::error::Code;
use crate::proto::{Decoder, Encode, Malformed, MultiHeader, Op, Stat};
use crate::tree::View;
use crate::txn::{MultiItem, TxnBody};

fn stat(view: &View<'_>, path: &str) -> Stat {
    view.get(path).map(|n| n.stat()).unwrap_or_default()
}

/// The body of a successful reply.
pub(super) fn single(view: &View<'_>, body: &TxnBody<'_>, out: &mut Vec<u8>) {
    match body {
        TxnBody::Create { op: Op::Create, path, .. } => out.put_string(path),
        TxnBody::Create { path, .. }
        | TxnBody::CreateContainer { path, .. }
        | TxnBody::CreateTtl { path, .. } => {
            out.put_string(path);
            stat(view, path).encode(out);
        }
        TxnBody::SetData { op: Op::Reconfig, path, data, .. } => {
            out.put_buffer(*data);
            stat(view, path).encode(out);
        }
        TxnBody::SetData { path, .. } | TxnBody::SetAcl { path, .. } => stat(view, path).encode(out),
        _ => {}
    }
}

/// One result of a successful multi.
pub(super) fn multi_item(view: &View<'_>, body: &TxnBody<'_>, out: &mut Vec<u8>) {
    let op = match body {
        TxnBody::CreateContainer { .. } | TxnBody::CreateTtl { .. } => Op::Create2.wire(),
        other => other.kind(),
    };
    MultiHeader { op, done: false, err: 0 }.encode(out);
    single(view, body, out);
}

/// What ends the results of every multi.
pub(super) fn multi_end(out: &mut Vec<u8>) {
    MultiHeader::END.encode(out);
}

/// The results of a failed multi: 0 before the failing operation, its code, then the codes logged behind it.
pub(super) fn failed_multi(items: &[MultiItem<'_>], out: &mut Vec<u8>) -> Result<(), Malformed> {
    for item in items {
        let code = if item.is_error() { Decoder::new(item.body).int()? } else { Code::OK.0 };
        MultiHeader { op: Op::Error.wire(), done: false, err: code }.encode(out);
        out.put_int(code);
    }
    multi_end(out);
    Ok(())
}
