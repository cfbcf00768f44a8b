//! Interned access control lists: one copy of each, named by a number.
//!
//! Not here: what an ACL allows (`crate::acl`), how readers find a list (`concurrent::acl_table`).
//! Invariants: id 0 is world:anyone ALL and stays; equal lists have equal ids; an id whose count fell to zero is given
//! out again only after [`Interner::retire`], which the store calls when no reader can hold it.

use crate::proto::Acl;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The number of an interned list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AclId(pub u32);

impl AclId {
    /// world:anyone with every permission.
    pub const OPEN: AclId = AclId(0);
}

/// The writer's side: lists to ids, and how many versions use each.
pub(super) struct Interner {
    ids: BTreeMap<Arc<[Acl]>, u32>,
    /// By id. Id 0 is never counted.
    entries: Vec<Entry>,
    free: Vec<u32>,
}

struct Entry {
    users: u64,
    /// `None`: free, or retired and waiting.
    list: Option<Arc<[Acl]>>,
}

/// What interning found.
pub(super) enum Interned {
    Known(u32),
    /// A new id: the table must be told the list before anyone sees the id.
    New(u32, Arc<[Acl]>),
}

impl Interner {
    pub(super) fn new() -> (Interner, Arc<[Acl]>) {
        let open: Arc<[Acl]> = Arc::from([Acl::open()]);
        let entries = vec![Entry { users: 0, list: Some(open.clone()) }];
        (Interner { ids: BTreeMap::from([(open.clone(), 0)]), entries, free: vec![] }, open)
    }

    /// The id of a list, with one more user.
    pub(super) fn take(&mut self, list: &[Acl]) -> Interned {
        if let [only] = list
            && *only.id.scheme == *"world"
            && *only == *self.entries[0].list.as_ref().map(|l| &l[0]).expect("id 0 stays")
        {
            return Interned::Known(0);
        }
        if let Some(&id) = self.ids.get(list) {
            self.add_user(id);
            return Interned::Known(id);
        }
        let list: Arc<[Acl]> = Arc::from(list);
        let entry = Entry { users: 1, list: Some(list.clone()) };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("fewer ACLs than nodes in memory")
            }
        };
        self.ids.insert(list.clone(), id);
        Interned::New(id, list)
    }

    /// One more user of an id that has one.
    pub(super) fn add_user(&mut self, id: u32) {
        if id != 0 {
            self.entries[id as usize].users += 1;
        }
    }

    /// One user less; `true` if it was the last: then nobody new can get this id, and `retire` follows.
    pub(super) fn drop_user(&mut self, id: u32) -> bool {
        if id == 0 {
            return false;
        }
        let e = &mut self.entries[id as usize];
        e.users -= 1;
        if e.users > 0 {
            return false;
        }
        let list = e.list.take().expect("an id in use has a list");
        self.ids.remove(&list);
        true
    }

    /// The id may be given out again.
    pub(super) fn retire(&mut self, id: u32) {
        self.free.push(id);
    }

    /// Lists in use, id 0 included.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Id;

    fn list(user: &str) -> Vec<Acl> {
        vec![Acl { perms: 1, id: Id::new("digest", user) }]
    }

    fn new_id(i: Interned) -> u32 {
        match i {
            Interned::New(id, _) => id,
            Interned::Known(id) => panic!("{id} was known"),
        }
    }

    #[test]
    fn an_id_is_shared_counted_and_reused_only_after_it_was_retired() {
        let (mut a, _) = Interner::new();
        assert!(matches!(a.take(&[Acl::open()]), Interned::Known(0)));
        let x = new_id(a.take(&list("x")));
        assert!(matches!(a.take(&list("x")), Interned::Known(id) if id == x));
        assert!(!a.drop_user(x));
        assert!(a.drop_user(x));
        let y = new_id(a.take(&list("y")));
        assert_ne!(x, y, "x may still be held by a reader");
        let again = new_id(a.take(&list("x")));
        assert_ne!(x, again);
        a.retire(x);
        assert_eq!(new_id(a.take(&list("z"))), x);
        assert_eq!(a.len(), 4);
        assert!(!a.drop_user(0));
    }
}
