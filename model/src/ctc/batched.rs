//! Prefix beam search of many sessions at once, in tensor operations: the search of [`PrefixBeam`](super::PrefixBeam) without scorers, for
//! devices where the log-probs already are.
//!
//! A beam is a row of fixed width in each tensor. A tree cannot be kept that way, so a prefix is known by a hash of its tokens, as is
//! the prefix without its last token: two pairs of integers below 2³¹, each multiplied and reduced by a prime. That
//! the one is the other's beginning is an equality of hashes, and what the tree finds by walking is found by comparing all pairs of a row.
//! Two prefixes of a beam are confused with a probability of about 2⁻⁶². The way back to the tokens is kept as one
//! pair of indices for each entry and frame, and walked on the host at the end.

use candle_core::{DType, Device, Tensor};

use super::options::Pruning;
use crate::error::ModelError;

/// Multipliers and primes of the two hashes: products stay below 2⁶².
const HASHES: [(i64, i64); 2] = [(1_103_515_245, 2_147_483_647), (1_664_525_013, 2_147_483_629)];

/// Spellings of one session, the best first, each with the natural log of its probability.
pub type Ranked = Vec<(Vec<u32>, f64)>;

/// The beams of `batch` sessions on one device. Shapes below: B sessions, W prefixes, K classes tried, C classes.
#[derive(Debug)]
pub struct BatchedBeam {
    blank_class: u32,
    pruning: Pruning,
    device: Device,
    batch: usize,
    classes: usize,
    tried: usize,
    /// `(B, W) f64`: probability of paths that end in a blank, and in the last token.
    blank: Tensor,
    sound: Tensor,
    /// `(B, W) u32`: the last token; the blank where there is none.
    last: Tensor,
    /// `(B, W) i64` each: of the prefix, and of the prefix without its last token.
    hashes: [Tensor; 2],
    parents: [Tensor; 2],
    /// `(B, 1) f64`: natural log of what probabilities have been divided by.
    log_scale: Tensor,
    /// For each frame `(B, W) u32`: the entry before, and the token that was appended or the blank.
    ways: Vec<(Tensor, Tensor)>,
    tables: Tables,
}

/// What each candidate of a row is: W that stay, then W times K that are extended.
#[derive(Debug)]
struct Tables {
    /// `(W + W·K) u32`: its entry.
    from: Tensor,
    /// `(W + W·K) u32`: index of its class among those tried.
    tried: Tensor,
    /// `(W + W·K) u8`: whether it stays.
    stays: Tensor,
    /// `(1, W) i64`: hashes that no prefix has.
    nowhere: Tensor,
}

impl BatchedBeam {
    /// Beams of `batch` sessions at their starts, over `classes` classes.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] where the device has no memory left.
    pub fn new(
        batch: usize,
        classes: usize,
        blank_class: u32,
        pruning: Pruning,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let width = pruning.beam_width.max(1);
        let tried = pruning.max_tokens.clamp(1, classes);
        let candidates = || (0..width * (tried + 1)).map(|index| index.checked_sub(width));
        let table = |values: Vec<u32>| Tensor::new(values, device);
        let tables = Tables {
            from: table(
                (0..width * (tried + 1))
                    .map(|index| index.checked_sub(width).map_or(index, |index| index / tried) as u32)
                    .collect(),
            )?,
            tried: table(
                candidates()
                    .map(|index| index.map_or(0, |index| index % tried) as u32)
                    .collect(),
            )?,
            stays: Tensor::new(
                candidates()
                    .map(|index| u8::from(index.is_none()))
                    .collect::<Vec<_>>(),
                device,
            )?,
            nowhere: Tensor::new((1..=width as i64).map(|slot| -slot).collect::<Vec<_>>(), device)?
                .unsqueeze(0)?,
        };
        let first = Tensor::ones((batch, 1), DType::F64, device)?;
        let blank = first.pad_with_zeros(1, 0, width - 1)?;
        // The empty prefix is 0 in the first slot; nothing is the beginning of it.
        let nowhere = tables.nowhere.broadcast_as((batch, width))?;
        let hash = nowhere
            .narrow(1, 0, width - 1)?
            .pad_with_zeros(1, 1, 0)?
            .contiguous()?;
        let parent = nowhere.affine(1.0, -((width + 1) as f64))?;
        Ok(Self {
            blank_class,
            device: device.clone(),
            batch,
            classes,
            tried,
            sound: blank.zeros_like()?,
            last: Tensor::full(blank_class, (batch, width), device)?,
            hashes: [hash.clone(), hash],
            parents: [parent.clone(), parent],
            log_scale: Tensor::zeros((batch, 1), DType::F64, device)?,
            blank,
            ways: Vec::new(),
            tables,
            pruning: Pruning {
                beam_width: width,
                ..pruning
            },
        })
    }

    /// Takes one frame of each session, `(B, C) f32` log-probs; a session whose value in `active` `(B) u8` is 0 keeps its
    /// beam as it is.
    ///
    /// # Errors
    /// [`ModelError::Input`] for other shapes.
    pub fn step(&mut self, log_probs: &Tensor, active: &Tensor) -> Result<(), ModelError> {
        if log_probs.dims() != [self.batch, self.classes] || active.dims() != [self.batch] {
            return Err(ModelError::Input {
                name: "log_probs and active",
                expected: format!("({0}, {1}) and ({0})", self.batch, self.classes),
                actual: format!("{:?} and {:?}", log_probs.dims(), active.dims()),
            });
        }
        let (batch, width, tried) = (self.batch, self.pruning.beam_width, self.tried);
        let zeros = Tensor::zeros((batch, width), DType::F64, &self.device)?;

        // The classes that are tried, (B, K), and the probabilities of all classes with 0 for the others, (B, C).
        let log_probs = log_probs.contiguous()?;
        let classes = log_probs
            .arg_sort_last_dim(false)?
            .narrow(1, 0, tried)?
            .contiguous()?;
        let ranked = log_probs.gather(&classes, 1)?;
        let floor = ranked.narrow(1, tried - 1, 1)?.maximum(
            &ranked
                .narrow(1, 0, 1)?
                .minimum(f64::from(self.pruning.min_token_log_prob))?,
        )?;
        let probabilities = |log_probs: &Tensor| -> candle_core::Result<Tensor> {
            let is_tried = log_probs.broadcast_ge(&floor)?;
            let probabilities = log_probs.to_dtype(DType::F64)?.exp()?;
            is_tried.where_cond(&probabilities, &probabilities.zeros_like()?)
        };
        let of_class = probabilities(&log_probs)?;
        let of_tried = probabilities(&ranked)?;

        // What stays.
        let total = (&self.blank + &self.sound)?;
        let of_blank = of_class.narrow(1, self.blank_class as usize, 1)?;
        let has_token = self.last.ne(self.blank_class)?;
        let of_last = has_token.where_cond(&of_class.gather(&self.last, 1)?, &zeros)?;
        let stay_blank = total.broadcast_mul(&of_blank)?;
        // (B, i, j): entry i is entry j without its last token.
        let square = (batch, width, width);
        let mut is_parent = Tensor::ones(square, DType::U8, &self.device)?;
        for (hash, parent) in self.hashes.iter().zip(&self.parents) {
            let equal = hash.unsqueeze(2)?.broadcast_eq(&parent.unsqueeze(1)?)?;
            is_parent = (is_parent * equal)?;
        }
        let same_token = self.last.unsqueeze(2)?.broadcast_eq(&self.last.unsqueeze(1)?)?;
        let gained = same_token.where_cond(
            &self.blank.unsqueeze(2)?.broadcast_as(square)?.contiguous()?,
            &total.unsqueeze(2)?.broadcast_as(square)?.contiguous()?,
        )?;
        let gained = (gained * is_parent.to_dtype(DType::F64)?)?.sum(1)?;
        let stay_sound = ((&self.sound + gained)? * &of_last)?;

        // What is extended, (B, W, K): not by the blank, and not to what is in the beam anyway.
        let cube = (batch, width, tried);
        let class = classes.unsqueeze(1)?;
        let is_last = class.broadcast_eq(&self.last.unsqueeze(2)?)?;
        let source = is_last.where_cond(
            &self.blank.unsqueeze(2)?.broadcast_as(cube)?.contiguous()?,
            &total.unsqueeze(2)?.broadcast_as(cube)?.contiguous()?,
        )?;
        let there = is_parent
            .to_dtype(DType::F32)?
            .matmul(&is_last.to_dtype(DType::F32)?.contiguous()?)?;
        let is_new = (there.eq(0.0)? * class.ne(self.blank_class)?.broadcast_as(cube)?)?;
        let extended = source.broadcast_mul(&of_tried.unsqueeze(1)?)?;
        let extended = (extended * is_new.to_dtype(DType::F64)?)?.reshape((batch, width * tried))?;

        // The best, (B, W).
        let no_blank = extended.zeros_like()?;
        let all_blank = Tensor::cat(&[&stay_blank, &no_blank], 1)?;
        let all_sound = Tensor::cat(&[&stay_sound, &extended], 1)?;
        let scores = (&all_blank + &all_sound)?;
        let chosen = scores
            .arg_sort_last_dim(false)?
            .narrow(1, 0, width)?
            .contiguous()?;
        let score = scores.gather(&chosen, 1)?;
        let best = score.narrow(1, 0, 1)?;
        let far = (&best * (-f64::from(self.pruning.max_distance)).exp())?;
        let lives = (score.broadcast_ge(&far)? * score.gt(0.0)?)?;
        let look_up = |table: &Tensor| -> candle_core::Result<Tensor> {
            table
                .index_select(&chosen.flatten_all()?, 0)?
                .reshape((batch, width))
        };
        let (from, stays) = (look_up(&self.tables.from)?, look_up(&self.tables.stays)?);
        let appended = classes.gather(&look_up(&self.tables.tried)?, 1)?;
        let nowhere = self.tables.nowhere.broadcast_as((batch, width))?.contiguous()?;
        let no_token = Tensor::full(self.blank_class, (batch, width), &self.device)?;

        // A session that rests, or whose frame has no finite value, keeps what it has.
        let goes_on = (active.unsqueeze(1)?.ne(0u8)? * best.gt(0.0)?)?;
        let goes_on = goes_on.broadcast_as((batch, width))?.contiguous()?;
        let scale = best.gt(0.0)?.where_cond(&best, &best.ones_like()?)?;
        let next = |all: &Tensor, old: &Tensor| -> candle_core::Result<Tensor> {
            let new = lives.where_cond(&all.gather(&chosen, 1)?.broadcast_div(&scale)?, &zeros)?;
            goes_on.where_cond(&new, old)
        };
        let blank = next(&all_blank, &self.blank)?;
        let sound = next(&all_sound, &self.sound)?;
        let last = stays.where_cond(&self.last.gather(&from, 1)?, &appended)?;
        let last = lives.where_cond(&last, &no_token)?;
        for (index, (multiplier, prime)) in HASHES.into_iter().enumerate() {
            let hash = self.hashes[index].gather(&from, 1)?;
            let longer = remainder(
                &((&hash * &Tensor::full(multiplier, (batch, width), &self.device)?)?
                    + appended.to_dtype(DType::I64)?
                    + Tensor::full(1i64, (batch, width), &self.device)?)?,
                prime,
            )?;
            let parent = stays.where_cond(&self.parents[index].gather(&from, 1)?, &hash)?;
            let hash = stays.where_cond(&hash, &longer)?;
            let outside = nowhere.affine(1.0, -((width + 1) as f64))?;
            let parent = lives.where_cond(&parent, &outside)?;
            let hash = lives.where_cond(&hash, &nowhere)?;
            self.parents[index] = goes_on.where_cond(&parent, &self.parents[index])?;
            self.hashes[index] = goes_on.where_cond(&hash, &self.hashes[index])?;
        }
        let slots = Tensor::arange(0u32, width as u32, &self.device)?
            .unsqueeze(0)?
            .broadcast_as((batch, width))?
            .contiguous()?;
        let token = stays.where_cond(&no_token, &appended)?;
        self.ways.push((
            goes_on.where_cond(&from, &slots)?,
            goes_on.where_cond(&token, &no_token)?,
        ));
        let first = goes_on.narrow(1, 0, 1)?.contiguous()?;
        self.log_scale = first.where_cond(&(&self.log_scale + scale.log()?)?, &self.log_scale)?;
        self.last = goes_on.where_cond(&last, &self.last)?;
        (self.blank, self.sound) = (blank, sound);
        Ok(())
    }

    /// The `count` best spellings of each session. Copies the way back from the device.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] where the device fails.
    pub fn n_best(&self, count: usize) -> Result<Vec<Ranked>, ModelError> {
        let total = (&self.blank + &self.sound)?
            .log()?
            .broadcast_add(&self.log_scale)?;
        let scores = total.to_vec2::<f64>()?;
        let mut ways = Vec::with_capacity(self.ways.len());
        for (from, token) in &self.ways {
            ways.push((from.to_vec2::<u32>()?, token.to_vec2::<u32>()?));
        }
        let spell = |session: usize, mut slot: usize| {
            let mut spelled = Vec::new();
            for (from, token) in ways.iter().rev() {
                if token[session][slot] != self.blank_class {
                    spelled.push(token[session][slot]);
                }
                slot = from[session][slot] as usize;
            }
            spelled.reverse();
            spelled
        };
        let ranked = |(session, scores): (usize, &Vec<f64>)| {
            let mut order: Vec<usize> = (0..scores.len())
                .filter(|&slot| scores[slot].is_finite())
                .collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order
                .into_iter()
                .take(count)
                .map(|slot| (spell(session, slot), scores[slot]))
                .collect()
        };
        Ok(scores.iter().enumerate().map(ranked).collect())
    }
}

/// Of integers that are not negative.
fn remainder(value: &Tensor, prime: i64) -> candle_core::Result<Tensor> {
    let primes = Tensor::full(prime, value.shape(), value.device())?;
    value - ((value / &primes)? * &primes)?
}
