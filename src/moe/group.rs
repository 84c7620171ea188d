//! A group of expert-parallel ranks: its set-up, its channels, its failure and recovery. Ranks are threads of one process.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaStream};

use super::exchange::{BULK_SMEM, Channel};
use super::layout::{ABORT_AT, GroupConfig, Layout, VERDICT_AT};
use super::observe::{Observation, PeerStats};
use super::protocol::{Verdict, next_generation};
use super::rendezvous::{Absent, Meeting};
use crate::device::raw::{self, RawFunction};
use crate::device::{Device, Module};
use crate::error::{DeviceError, MoeError};

/// The place where the ranks of a group find each other; one for a group, shared by its threads.
pub struct Rendezvous {
    meeting: Meeting<Message>,
    ranks: usize,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rendezvous")
            .field("ranks", &self.ranks)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// For `ranks` ranks.
    pub fn new(ranks: usize) -> Arc<Self> {
        Arc::new(Self {
            meeting: Meeting::new(ranks),
            ranks,
        })
    }

    fn meet(
        &self,
        rank: usize,
        m: Message,
        patience: Duration,
    ) -> Result<Arc<Vec<Message>>, MoeError> {
        self.meeting.meet(rank, m, patience).map_err(|e| match e {
            Absent::Missing(ranks) => MoeError::Missing { ranks },
            Absent::Taken => MoeError::RankTaken {
                rank,
                ranks: self.ranks,
            },
        })
    }
}

/// What ranks tell each other on the host.
#[derive(Clone)]
enum Message {
    Hello {
        config: GroupConfig,
        window: Arc<Window>,
    },
    /// Peer access is enabled, or why not.
    Connected(Result<(), (usize, usize)>),
    /// My kernels have ended; the last operation that one of them was at.
    Drained(u32),
    /// My window is ready for the next generation.
    Ready,
}

/// A rank's window. All ranks hold all windows, so none goes away while a peer's kernel may store into it.
#[derive(Debug)]
pub(crate) struct Window {
    address: u64,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl Drop for Window {
    fn drop(&mut self) {
        // The last holder goes: no rank can launch any more, but what they have launched may still run.
        if raw::synchronize(&self.stream).is_ok() {
            // SAFETY: from `allocate`; kernels of this rank have ended. Those of others: their windows are dropped by the same
            // holder, each after its stream; see `Windows`.
            unsafe { raw::free(&self.context, self.address) };
        }
    }
}

/// All windows of a group. Dropped by whichever rank goes last: first every stream is waited for, then memory goes.
#[derive(Debug)]
pub(crate) struct Windows(Vec<Arc<Window>>);

impl Drop for Windows {
    fn drop(&mut self) {
        for w in &self.0 {
            let _ = raw::synchronize(&w.stream);
        }
    }
}

/// What the channels of a rank share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: GroupConfig,
    pub layout: Layout,
    pub rank: usize,
    pub device: Device,
    pub stream: Arc<CudaStream>,
    pub addresses: Vec<u64>,
    pub kernels: Kernels,
    _windows: Windows,
}

/// The four kernels.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub dispatch_send: RawFunction,
    pub dispatch_send_fp8: RawFunction,
    pub dispatch_send_bulk: RawFunction,
    pub dispatch_receive: RawFunction,
    pub combine_send: RawFunction,
    pub combine_reduce_send: RawFunction,
    pub combine_receive: RawFunction,
    _modules: [Arc<Module>; 2],
}

impl Kernels {
    fn new(device: &Device) -> Result<Self, DeviceError> {
        let load = |name| {
            let unit = crate::build_info()
                .kernel(name)
                .ok_or(DeviceError::KernelsNotBuilt)?;
            Module::load(device, unit)
        };
        let dispatch = load("sm90_moe_dispatch")?;
        let combine = load("sm90_bf16_moe_combine")?;
        Ok(Self {
            dispatch_send: dispatch.function("sm90_moe_dispatch_send", 0)?,
            dispatch_send_fp8: dispatch.function("sm90_bf16_moe_dispatch_send_fp8", 0)?,
            dispatch_send_bulk: dispatch.function("sm90_moe_dispatch_send_bulk", BULK_SMEM)?,
            dispatch_receive: dispatch.function("sm90_moe_dispatch_receive", 0)?,
            combine_send: combine.function("sm90_bf16_moe_combine_send", 0)?,
            combine_reduce_send: combine.function("sm90_bf16_moe_combine_reduce_send", 0)?,
            combine_receive: combine.function("sm90_bf16_moe_combine_receive", 0)?,
            _modules: [dispatch, combine],
        })
    }
}

/// A rank's membership in a group.
#[derive(Debug)]
pub struct Group {
    shared: Arc<Shared>,
    rendezvous: Arc<Rendezvous>,
    channels: Vec<Channel>,
}

impl Group {
    /// Joins as `rank`, with a device and a stream that all its kernels will run on. Waits on the host for the other ranks,
    /// `patience` at most; allocates the window ([`GroupConfig::window_bytes`]) and enables peer access.
    ///
    /// # Errors
    /// A configuration that makes no sense or that differs from another rank's, ranks that did not come, devices that cannot
    /// reach each other, the driver's. All ranks that came get an error.
    pub fn join(
        rendezvous: &Arc<Rendezvous>,
        rank: usize,
        device: &Device,
        stream: &Arc<CudaStream>,
        config: &GroupConfig,
        patience: Duration,
    ) -> Result<Self, MoeError> {
        config.checked()?;
        device.owns(stream)?;
        if config.ranks != rendezvous.ranks || rank >= config.ranks {
            return Err(MoeError::RankTaken {
                rank,
                ranks: rendezvous.ranks,
            });
        }
        let kernels = Kernels::new(device)?;
        let layout = Layout::new(config);
        let context = device.context();
        let window = Arc::new(Window {
            address: raw::allocate(context, layout.bytes)?,
            context: context.clone(),
            stream: stream.clone(),
        });
        // SAFETY: the window is new. Cells of 0 are no operation's, an abort cell of 0 is no verdict.
        unsafe { raw::zero(context, window.address, layout.bytes)? };
        let hello = Message::Hello {
            config: *config,
            window: window.clone(),
        };
        let all = rendezvous.meet(rank, hello, patience)?;
        let mut windows = Vec::new();
        for (other, m) in all.iter().enumerate() {
            let Message::Hello {
                config: c,
                window: w,
            } = m
            else {
                return Err(MoeError::RankTaken {
                    rank: other,
                    ranks: config.ranks,
                });
            };
            if let Some(field) = config.differs(c) {
                return Err(MoeError::ConfigMismatch { rank: other, field });
            }
            windows.push(w.clone());
        }
        let connect = || -> Result<Result<(), (usize, usize)>, DeviceError> {
            for w in &windows {
                if w.context.cu_ctx() != context.cu_ctx() && !raw::enable_peer(context, &w.context)?
                {
                    return Ok(Err((context.ordinal(), w.context.ordinal())));
                }
            }
            Ok(Ok(()))
        };
        let connected = connect();
        let news = match &connected {
            Ok(c) => *c,
            Err(_) => Err((context.ordinal(), context.ordinal())),
        };
        let all = rendezvous.meet(rank, Message::Connected(news), patience)?;
        connected?.map_err(|(device, peer)| MoeError::NoPeerAccess { device, peer })?;
        for m in all.iter() {
            if let Message::Connected(Err((device, peer))) = *m {
                return Err(MoeError::NoPeerAccess { device, peer });
            }
        }
        let shared = Arc::new(Shared {
            config: *config,
            addresses: windows.iter().map(|w| w.address).collect(),
            layout,
            rank,
            device: device.clone(),
            stream: stream.clone(),
            kernels,
            _windows: Windows(windows),
        });
        let channels = (0..config.channels)
            .map(|i| Channel::new(&shared, i))
            .collect();
        let mut group = Self {
            shared,
            rendezvous: rendezvous.clone(),
            channels,
        };
        group.reset(1)?;
        group.meet(Message::Ready, patience)?;
        Ok(group)
    }

    fn meet(&self, m: Message, patience: Duration) -> Result<Arc<Vec<Message>>, MoeError> {
        self.rendezvous.meet(self.shared.rank, m, patience)
    }

    /// The configuration.
    pub fn config(&self) -> &GroupConfig {
        &self.shared.config
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// The channels, one for each micro-batch in flight.
    pub fn channels(&mut self) -> &mut [Channel] {
        &mut self.channels
    }

    /// Waits for the stream and tells whether all its operations went through. Until then their outputs mean nothing.
    ///
    /// # Errors
    /// [`MoeError::Failed`] with the verdict that all ranks get; the driver's.
    pub fn check(&self) -> Result<(), MoeError> {
        let s = &self.shared;
        let mut word = [0u8; 8];
        // SAFETY: the abort cell lies in the window, which `shared` keeps.
        unsafe { raw::read(&s.stream, s.addresses[s.rank] + ABORT_AT, &mut word)? };
        match u64::from_le_bytes(word) {
            0 => Ok(()),
            word => Err(match Verdict::unpack(word) {
                Some(v) => MoeError::Failed(v),
                None => MoeError::Corrupt { word },
            }),
        }
    }

    /// What this rank has seen of its peers since it joined, over all channels. Waits for the stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn observe(&self) -> Result<Observation, MoeError> {
        let s = &self.shared;
        let mut peers = vec![PeerStats::default(); s.config.ranks];
        for c in &s.layout.channels {
            let mut bytes = vec![0u8; 64 * s.config.ranks];
            // SAFETY: the stats lie in the window, which `shared` keeps.
            unsafe { raw::read(&s.stream, s.addresses[s.rank] + c.stats_at, &mut bytes)? };
            for (peer, b) in peers.iter_mut().zip(bytes.chunks_exact(64)) {
                peer.add(b);
            }
        }
        Ok(Observation::new(&s.config, peers))
    }

    /// Starts a new generation after a failure: waits for this rank's stream, then for the other ranks, `patience` at most.
    /// All ranks must call it, also those that saw no failure. Channels are as new.
    ///
    /// # Errors
    /// Ranks that did not come; the driver's.
    pub fn recover(&mut self, patience: Duration) -> Result<(), MoeError> {
        let s = self.shared.clone();
        let blocks = s.config.blocks;
        let mut last = 0u32;
        for c in &s.layout.channels {
            let mut words = vec![0u8; 16 * blocks];
            // SAFETY: the operation words lie in the window, which `shared` keeps.
            unsafe { raw::read(&s.stream, s.addresses[s.rank] + c.operation_at, &mut words)? };
            let most = words
                .chunks_exact(4)
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
                .max();
            last = last.max(most.unwrap_or(0));
        }
        // Everybody's kernels have ended before anybody touches a window (rule 5 of the protocol).
        let all = self.meet(Message::Drained(last), patience)?;
        for m in all.iter() {
            if let Message::Drained(other) = *m {
                last = last.max(other);
            }
        }
        self.reset(next_generation(last))?;
        self.meet(Message::Ready, patience)?;
        Ok(())
    }

    /// Own window: no verdict, and the operations count from `first`.
    fn reset(&mut self, first: u32) -> Result<(), MoeError> {
        let s = &self.shared;
        let (context, base) = (s.device.context(), s.addresses[s.rank]);
        for (c, channel) in s.layout.channels.iter().zip(&mut self.channels) {
            let words: Vec<u8> = [first, first, first + 1, first + 1]
                .into_iter()
                .flat_map(|op| std::iter::repeat_n(op.to_le_bytes(), s.config.blocks))
                .flatten()
                .collect();
            // SAFETY: in the window; no kernel of any rank runs (they have met).
            unsafe { raw::write(context, base + c.operation_at, &words)? };
            channel.renew();
        }
        // SAFETY: as above.
        unsafe { raw::zero(context, base + VERDICT_AT, 256)? };
        Ok(())
    }
}
