/*-------------------------------------------------------------------------
 *
 * watermark.c
 *	  Watermarks by hand: get, set, reset.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_watermark_get);
PG_FUNCTION_INFO_V1(etl_watermark_set);
PG_FUNCTION_INFO_V1(etl_watermark_reset);

static char *own_value(const EtlWatermark *watermark, char *value);

/* The value that a pipeline has reached, or null if it has none. */
Datum
etl_watermark_get(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), false);
	if (watermark.value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(watermark.value));
}

/* Set a pipeline's value; what it reads, and with which cursor, stays. */
Datum
etl_watermark_set(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	PreventCommandIfReadOnly("etl_watermark_set()");
	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), true);
	watermark.value = own_value(&watermark, etl_arg_text(fcinfo, 1));
	watermark.run_id = 0;
	etl_watermark_move(&watermark);
	PG_RETURN_VOID();
}

/*
 * Of a pipeline that has never run, or whose source is gone, the type is not
 * known: then the text is kept as it is.
 */
static char *
own_value(const EtlWatermark *watermark, char *value)
{
	AttrNumber attnum;

	if (!OidIsValid(watermark->source) || watermark->cursor_column == NULL)
		return value;
	attnum = get_attnum(watermark->source, watermark->cursor_column);
	if (attnum <= 0)
		return value;
	return etl_plain_literal(getBaseType(get_atttype(watermark->source, attnum)),
							 value);
}

/* Forget a pipeline; tells whether there was something to forget. */
Datum
etl_watermark_reset(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	PreventCommandIfReadOnly("etl_watermark_reset()");
	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), true);
	etl_watermark_forget(&watermark);
	PG_RETURN_BOOL(watermark.exists);
}
