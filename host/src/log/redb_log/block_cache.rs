//! Decoded blocks, shared by consumers that catch up side by side.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::{Offset, SharedMessage};

/// A block as readers use it.
#[derive(Debug)]
pub(super) struct DecodedBlock {
    pub(super) first: Offset,
    /// The offset after the last one that the block accounts for.
    pub(super) end: Offset,
    /// In order.
    pub(super) messages: Vec<SharedMessage>,
}

impl DecodedBlock {
    pub(super) fn message(&self, offset: Offset) -> Option<&SharedMessage> {
        let index = self.messages.binary_search_by_key(&offset, |message| message.offset).ok()?;
        Some(&self.messages[index])
    }

    /// Messages at or after an offset.
    pub(super) fn from(&self, offset: Offset) -> &[SharedMessage] {
        &self.messages[self.messages.partition_point(|message| message.offset < offset)..]
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.messages.iter().map(|message| message.bytes()).sum::<usize>()
    }
}

/// The blocks read last, bounded in bytes; the one that came first goes first.
///
/// A block that is written anew is forgotten. Whoever read it from an older snapshot may want to insert it
/// afterwards; so an insertion says of which [`BlockCache::edition`] its reader knew before it read.
pub(super) struct BlockCache {
    /// Held for a look-up or an insertion, not while a block is read or decoded.
    blocks: Mutex<Blocks>,
    bytes_max: usize,
}

#[derive(Default)]
struct Blocks {
    by_first: BTreeMap<Offset, (Arc<DecodedBlock>, usize)>,
    order: VecDeque<Offset>,
    bytes: usize,
    edition: u64,
}

impl BlockCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { blocks: Mutex::default(), bytes_max }
    }

    /// The block that accounts for an offset, if it is here.
    pub(super) fn get(&self, offset: Offset) -> Option<Arc<DecodedBlock>> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, (block, _)) = blocks.by_first.range(..=offset).next_back()?;
        (offset < block.end).then(|| block.clone())
    }

    /// Counts how often blocks were written anew. Asked before a snapshot is taken to read from.
    pub(super) fn edition(&self) -> u64 {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).edition
    }

    /// Forgets the blocks that account for parts of these ranges, and what is still being read.
    pub(super) fn forget(&self, ranges: &[(Offset, Offset)]) {
        let mut forgotten = Vec::new();
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.edition += 1;
        for &(from, to) in ranges {
            while let Some((&first, (block, _))) = blocks.by_first.range(..to).next_back() {
                if block.end <= from {
                    break;
                }
                let (block, bytes) = blocks.by_first.remove(&first).expect("it was just found");
                blocks.bytes -= bytes;
                blocks.order.retain(|one| *one != first);
                forgotten.push(block);
            }
        }
        drop(blocks);
    }

    pub(super) fn insert(&self, block: Arc<DecodedBlock>, edition: u64) {
        let bytes = block.bytes();
        let mut evicted = Vec::new();
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let first = block.first;
        if bytes > self.bytes_max || blocks.by_first.contains_key(&first) || blocks.edition != edition {
            return;
        }
        blocks.by_first.insert(first, (block, bytes));
        blocks.order.push_back(first);
        blocks.bytes += bytes;
        while blocks.bytes > self.bytes_max {
            let oldest = blocks.order.pop_front().expect("bytes belong to blocks");
            let (block, bytes) = blocks.by_first.remove(&oldest).expect("the order knows what is there");
            blocks.bytes -= bytes;
            evicted.push(block);
        }
        // What is evicted is dropped after the lock.
        drop(blocks);
    }
}
