//! Frames of a video as a tower looks at them: some are taken, made to fit, and put together to grids.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muse_format::{Fit, Taken, Vision};

use super::decode::{self, Picture};
use super::image::{Image, ImageError};
use super::{fit, resize};

/// Frames of a video.
const FRAMES_MAX: usize = 1 << 16;

/// Frames that are pictures, PNG, JPEG or WebP, so many a second. Cloning is cheap.
#[derive(Clone, PartialEq)]
pub struct Video {
    /// The files of the frames, one behind the other.
    file: Arc<[u8]>,
    frames: Vec<Range<usize>>,
    rate: f64,
}

/// Why something is not a video for a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    #[error("a video has {frames} frames; it must have 1 to {FRAMES_MAX}")]
    Frames { frames: usize },
    #[error("a video's frames are {sum} bytes together, and its file is {bytes}")]
    Bytes { sum: u64, bytes: u64 },
    #[error("a video has {rate} frames a second; it must be above zero and at most 1000")]
    Rate { rate: f64 },
    #[error("a video of {frames} frames is too short; this model looks at {least} at least")]
    Short { frames: usize, least: u32 },
    #[error("frame {frame} is {width} x {height} pixels, the first of its video {} x {}", first[0], first[1])]
    Size { frame: usize, width: u32, height: u32, first: [u32; 2] },
    #[error("frame {frame}: {problem}")]
    Frame { frame: usize, problem: ImageError },
}

/// As many frames as a patch has, seen as one image.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameGrid {
    pub image: Image,
    /// When the first and the last of its frames are, in seconds.
    pub times: [f64; 2],
}

impl std::fmt::Debug for Video {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Video({} frames, {} a second)", self.frames.len(), self.rate)
    }
}

impl Video {
    /// Frames of so many bytes each, whose files lie one behind the other in `file`, `rate` of them a second.
    ///
    /// # Errors
    /// [`VideoError`] where the numbers do not fit together. No frame is decoded yet.
    pub fn new(file: Arc<[u8]>, sizes: &[u64], rate: f64) -> Result<Self, VideoError> {
        if !(1..=FRAMES_MAX).contains(&sizes.len()) {
            return Err(VideoError::Frames { frames: sizes.len() });
        }
        if !(rate > 0.0 && rate <= 1000.0) {
            return Err(VideoError::Rate { rate });
        }
        let (sum, bytes) =
            (sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size)), file.len() as u64);
        if sum != bytes {
            return Err(VideoError::Bytes { sum, bytes });
        }
        // The sum of all is the length of what is in memory, so each fits.
        let frames = sizes.iter().scan(0, |end, size| {
            let start = std::mem::replace(end, *end + *size as usize);
            Some(start..*end)
        });
        Ok(Self { frames: frames.collect(), file, rate })
    }

    /// The pictures in a folder, in the order of their names, `rate` of them a second. Files whose names begin with a dot
    /// are left out.
    ///
    /// # Errors
    /// Where the folder or a file cannot be read, or there is no file.
    pub fn open(folder: &Path, rate: f64) -> io::Result<Self> {
        let mut paths = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .filter(|path| !path.as_ref().is_ok_and(|path| is_hidden(path)))
            .collect::<io::Result<Vec<PathBuf>>>()?;
        paths.sort();
        let (mut file, mut sizes) = (Vec::new(), Vec::new());
        for path in paths.iter().take(FRAMES_MAX + 1) {
            let begin = file.len();
            io::Read::read_to_end(&mut fs::File::open(path)?, &mut file)?;
            sizes.push((file.len() - begin) as u64);
        }
        Self::new(file.into(), &sizes, rate).map_err(|problem| io::Error::other(problem.to_string()))
    }

    /// The files of the frames, one behind the other.
    pub fn file(&self) -> &Arc<[u8]> {
        &self.file
    }

    /// Bytes of each frame.
    pub fn sizes(&self) -> Vec<u64> {
        self.frames.iter().map(|frame| frame.len() as u64).collect()
    }

    /// Frames a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The grids that a model with this tower looks at, of `limit` tokens each at most. Each is decoded as it is asked for.
    ///
    /// # Errors
    /// [`VideoError::Short`]; the iterator's are those of frames.
    ///
    /// # Panics
    /// Where the tower takes no videos.
    pub fn grids<'a>(&'a self, vision: &'a Vision, limit: u32) -> Result<Grids<'a>, VideoError> {
        let of_videos = vision.video.as_ref().expect("the tower takes videos");
        let (frames, least) = (self.frames.len(), vision.pixels.frames);
        if matches!(of_videos.fit, Fit::Area { .. }) && frames < least as usize {
            return Err(VideoError::Short { frames, least });
        }
        let limit = limit.min(of_videos.tokens_max);
        Ok(Grids {
            video: self,
            vision,
            limit,
            taken: taken(of_videos, least, frames, self.rate),
            next: 0,
            size: None,
        })
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The frames that are taken of `frames` at `rate`, where a grid has `of_grid`.
fn taken(of_videos: &muse_format::Video, of_grid: u32, frames: usize, rate: f64) -> Vec<usize> {
    let (least, most) = (of_videos.frames_min as usize, of_videos.frames_max as usize);
    let (all, last) = (frames as f64, (frames - 1) as f64);
    match of_videos.taken {
        Taken::Before => {
            let wanted = ((all * of_videos.rate / rate) as usize).min(most).min(frames);
            let of_grid = of_grid as usize;
            let count = (wanted / of_grid * of_grid).max(least).min(frames);
            // As PyTorch computes them on x86-64: from both ends in f32, the product of the later half not rounded.
            let step = if count > 1 { last as f32 / (count - 1) as f32 } else { 0.0 };
            let point = |i: usize| match i < count / 2 {
                true => step * i as f32,
                false => (last - f64::from(step) * (count - 1 - i) as f64) as f32,
            };
            if count == 1 { vec![0] } else { (0..count).map(|i| point(i) as usize).collect() }
        }
        Taken::Nearest => {
            let count = ((all / rate * of_videos.rate) as usize).max(least).min(most).min(frames);
            let step = if count > 1 { last / (count - 1) as f64 } else { 0.0 };
            (0..count).map(|i| ((step * i as f64).round_ties_even() as usize).min(frames - 1)).collect()
        }
    }
}

/// See [`Video::grids`].
#[derive(Debug)]
pub struct Grids<'a> {
    video: &'a Video,
    vision: &'a Vision,
    limit: u32,
    taken: Vec<usize>,
    /// Of `taken`: the first that is in no grid yet.
    next: usize,
    /// Width and height of the first frame, and rows and columns of patches that all become.
    size: Option<([u32; 2], [u32; 2])>,
}

impl Grids<'_> {
    /// How many there are in all.
    pub fn count_all(&self) -> usize {
        self.taken.len().div_ceil(self.vision.pixels.frames as usize)
    }

    fn grid(&mut self) -> Result<FrameGrid, VideoError> {
        let of_grid = self.vision.pixels.frames as usize;
        let mut rgb = Vec::new();
        let mut ends = [0; 2];
        for i in 0..of_grid {
            // The last stands for those that are missing.
            let frame = self.taken[(self.next + i).min(self.taken.len() - 1)];
            ends = [if i == 0 { frame } else { ends[0] }, frame];
            let problem = |problem| VideoError::Frame { frame, problem };
            let picture =
                decode::decode(&self.video.file[self.video.frames[frame].clone()]).map_err(problem)?;
            rgb.extend(self.fitting(frame, picture)?);
        }
        self.next += of_grid;
        let [rows, cols] = self.size.map_or([0; 2], |(_, patches)| patches.map(u64::from));
        let image = Image::from_rgb(rows, cols, rgb, self.vision, self.limit);
        let image = image.map_err(|problem| VideoError::Frame { frame: ends[0], problem })?;
        Ok(FrameGrid { image, times: ends.map(|frame| frame as f64 / self.video.rate) })
    }

    /// The pixels of a frame, as many as all frames become.
    fn fitting(&mut self, frame: usize, picture: Picture) -> Result<Vec<u8>, VideoError> {
        let Picture { width, height, rgb } = picture;
        let (first, [rows, cols]) = match self.size {
            Some(size) => size,
            None => {
                let patches =
                    self.fit(width, height).map_err(|problem| VideoError::Frame { frame, problem })?;
                *self.size.insert(([width, height], patches))
            }
        };
        if first != [width, height] {
            return Err(VideoError::Size { frame, width, height, first });
        }
        let new_size = [rows, cols].map(|patches| (patches * self.vision.pixels.patch) as usize);
        let size = [height, width].map(|side| side as usize);
        Ok(resize::resize(self.vision.pixels.resampling, rgb, size, new_size))
    }

    /// Rows and columns of patches of frames of this size.
    fn fit(&self, width: u32, height: u32) -> Result<[u32; 2], ImageError> {
        let Vision { merge, pixels, video, .. } = self.vision;
        let side = pixels.patch * merge;
        let fit = match video.as_ref().expect("the tower takes videos").fit {
            Fit::Shape => Some(fit::tokens(height, width, side, self.limit)),
            Fit::Fill => Some(fit::fill(height, width, side, self.limit)),
            Fit::Table => Some((self.vision.positions / merge, self.vision.positions / merge)),
            Fit::Area { pixels_min, pixels_max } => {
                let frames = [self.taken.len() as u32, pixels.frames];
                fit::area_of_frames(frames, [height, width], side, [pixels_min, pixels_max], self.limit)
            }
        };
        let (rows, cols) = fit.ok_or(ImageError::Long { width, height })?;
        let tokens = u64::from(rows) * u64::from(cols);
        // Before frames are made that large.
        if tokens > u64::from(self.limit) {
            return Err(ImageError::TooLarge { tokens, limit: self.limit });
        }
        Ok([rows * merge, cols * merge])
    }
}

impl Iterator for Grids<'_> {
    type Item = Result<FrameGrid, VideoError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.taken.len()).then(|| self.grid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames, frames a second, how many transformers 5.23 takes for Muse Glimmer and for Qwen, and the sum of each times its
    /// place.
    type Case = (usize, f64, (usize, usize), (usize, usize));
    const CASES: [Case; 13] = [
        (1, 24.0, (1, 0), (1, 0)),
        (2, 24.0, (2, 2), (2, 2)),
        (3, 1.0, (2, 4), (3, 8)),
        (7, 2.0, (6, 76), (7, 112)),
        (17, 1.0, (16, 1376), (17, 1632)),
        (33, 2.1, (30, 9685), (31, 10600)),
        (33, 2.3, (28, 8467), (28, 8667)),
        (100, 30.0, (6, 1380), (6, 1385)),
        (100, 29.97, (6, 1380), (6, 1385)),
        (1000, 25.0, (80, 2156280), (80, 2157814)),
        (5000, 2.0, (96, 15514625), (768, 984122388)),
        (301, 12.5, (48, 234640), (48, 235196)),
        (29, 3.9, (14, 1911), (14, 1965)),
    ];

    #[test]
    fn frames_are_those_of_the_reference_implementation() {
        let video = |frames_min, frames_max, taken| muse_format::Video {
            token: 0,
            rate: 2.0,
            frames_min,
            frames_max,
            taken,
            fit: Fit::Shape,
            tokens_max: 1,
        };
        let (muse, qwen) = (video(2, 96, Taken::Before), video(4, 768, Taken::Nearest));
        let sum = |taken: Vec<usize>| {
            (taken.len(), taken.iter().zip(1..).map(|(frame, place)| frame * place).sum::<usize>())
        };
        let wrong: Vec<_> = CASES
            .into_iter()
            .map(|(frames, rate, of_muse, of_qwen)| {
                let actual = [&muse, &qwen].map(|video| sum(taken(video, 2, frames, rate)));
                ((frames, rate), actual, [of_muse, of_qwen])
            })
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
