//! The layout of a consumer's record.

use super::super::encoding::{Decoder, Malformed, put_number, put_optional_text, put_text};
use super::digest;
use crate::log::{Cause, Deployment, DueRefund, PluginRecord, ProbationEnd, ProbationEnded, RolledBack};

/// Layout: digest, manifest, deployment time, versions that were rolled back (digest, manifest's digest,
/// time, cause, reason), deployment to go back to + 1 or 0, refunds that are due (digest, time),
/// deployments ever made by cause, history (number, digest, manifest's digest, manifest, time, cause, flag,
/// how the probation ended).
pub(in super::super) fn put_plugin(out: &mut Vec<u8>, record: &PluginRecord) {
    out.extend_from_slice(&record.digest.0);
    put_text(out, &record.manifest);
    put_number(out, record.deployed_ms);
    put_number(out, record.rolled_back.len() as u64);
    for version in &record.rolled_back {
        out.extend_from_slice(&version.digest.0);
        out.extend_from_slice(&version.manifest.0);
        put_number(out, version.at_ms);
        out.push(version.by as u8);
        put_text(out, &version.why);
    }
    // Deployments are numbered from 1.
    put_number(out, record.back_to.unwrap_or(0));
    put_number(out, record.refunds.len() as u64);
    for refund in &record.refunds {
        out.extend_from_slice(&refund.digest.0);
        put_number(out, refund.since_ms);
    }
    record.deployed.iter().for_each(|count| put_number(out, *count));
    put_number(out, record.history.len() as u64);
    for one in &record.history {
        put_number(out, one.number);
        out.extend_from_slice(&one.digest.0);
        out.extend_from_slice(&one.manifest_digest.0);
        put_optional_text(out, one.manifest.as_deref());
        put_number(out, one.at_ms);
        out.push(one.cause as u8);
        out.push(u8::from(one.probation.is_some()));
        if let Some(end) = &one.probation {
            out.push(end.how as u8);
            put_number(out, end.messages);
            put_number(out, end.failures);
            put_text(out, &end.last);
        }
    }
}

pub(in super::super) fn plugin(bytes: &[u8]) -> Result<PluginRecord, Malformed> {
    let mut decoder = Decoder::new(bytes);
    let current = digest(&mut decoder)?;
    let manifest = decoder.owned_text()?;
    let deployed_ms = decoder.number()?;
    let mut rolled_back = Vec::new();
    for _ in 0..decoder.count()? {
        rolled_back.push(RolledBack {
            digest: digest(&mut decoder)?,
            manifest: digest(&mut decoder)?,
            at_ms: decoder.number()?,
            by: cause(&mut decoder)?,
            why: decoder.owned_text()?,
        });
    }
    let back_to = Some(decoder.number()?).filter(|number| *number > 0);
    let mut refunds = Vec::new();
    for _ in 0..decoder.count()? {
        refunds.push(DueRefund { digest: digest(&mut decoder)?, since_ms: decoder.number()? });
    }
    let mut deployed = [0; Cause::ALL.len()];
    for count in &mut deployed {
        *count = decoder.number()?;
    }
    let mut history = Vec::new();
    for _ in 0..decoder.count()? {
        history.push(deployment(&mut decoder)?);
    }
    decoder.end()?;
    Ok(PluginRecord { digest: current, manifest, deployed_ms, rolled_back, back_to, refunds, history, deployed })
}

fn deployment(decoder: &mut Decoder<'_>) -> Result<Deployment, Malformed> {
    Ok(Deployment {
        number: decoder.number()?,
        digest: digest(decoder)?,
        manifest_digest: digest(decoder)?,
        manifest: decoder.optional_text()?,
        at_ms: decoder.number()?,
        cause: cause(decoder)?,
        probation: if decoder.flag()? { Some(probation_end(decoder)?) } else { None },
    })
}

fn probation_end(decoder: &mut Decoder<'_>) -> Result<ProbationEnd, Malformed> {
    Ok(ProbationEnd {
        how: ProbationEnded::from_u8(decoder.byte()?).ok_or(Malformed("an end of a probation is unknown"))?,
        messages: decoder.number()?,
        failures: decoder.number()?,
        last: decoder.owned_text()?,
    })
}

fn cause(decoder: &mut Decoder<'_>) -> Result<Cause, Malformed> {
    Cause::from_u8(decoder.byte()?).ok_or(Malformed("a cause of a deployment is unknown"))
}
