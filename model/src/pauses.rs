//! Pauses in long work, in which what is more urgent goes first.
//!
//! A judgement takes a fifth of a second of one core, and what a live stream has said meanwhile cannot wait for that. So the parts of a judgement (a wide
//! search, a layer, a token) have a [`pause`] between them; whoever runs it says with [`working`] what is to be done there. Without that a pause
//! is nothing. What is computed does not depend on it: parts hold no lock in a pause, and their buffers are their own.
//!
//! The call is found by the thread and not by an argument: between who judges and a layer lie a dozen functions which have no opinion on it.

use std::cell::RefCell;

type InPauses = Box<dyn FnMut()>;

thread_local! {
    static IN_PAUSES: RefCell<Option<InPauses>> = const { RefCell::new(None) };
}

/// Forgets what is to be done in pauses, also when the work panics.
struct Working;

impl Drop for Working {
    fn drop(&mut self) {
        IN_PAUSES.take();
    }
}

/// Does `work`, and `in_pauses` at each of its pauses. In that nothing pauses.
///
/// Work within work pauses for nobody, and neither does what is left of the outer one behind it.
pub fn working<R>(in_pauses: impl FnMut() + 'static, work: impl FnOnce() -> R) -> R {
    let _working = Working;
    IN_PAUSES.set(Some(Box::new(in_pauses)));
    work()
}

/// A place where something else can be done.
pub fn pause() {
    // Taken out while it is called: its own pauses find nothing.
    if let Some(mut in_pauses) = IN_PAUSES.take() {
        in_pauses();
        IN_PAUSES.set(Some(in_pauses));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    use super::{pause, working};

    #[test]
    fn a_pause_is_nothing_before_and_behind_the_work() {
        let count = Rc::new(Cell::new(0));
        let counting = Rc::clone(&count);
        pause();
        let result = working(
            move || {
                counting.set(counting.get() + 1);
                pause();
            },
            || {
                pause();
                pause();
                7
            },
        );
        pause();
        assert_eq!((result, count.get()), (7, 2));
    }

    #[test]
    fn work_that_panics_leaves_nothing_behind() {
        let count = Rc::new(Cell::new(0));
        let counting = Rc::clone(&count);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            working(move || counting.set(counting.get() + 1), || panic!("asked to"));
        }));
        assert!(panicked.is_err());
        pause();
        assert_eq!(count.get(), 0);
    }
}
