"""Criteria and exceedances evaluated on stores, and their tables; a criterion itself is a file of analyze/criteria."""
